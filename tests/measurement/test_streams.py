"""How many matrices a card measures at once; tests/pipeline/test_devices.py runs them on a real one."""

from __future__ import annotations

from collections.abc import Iterator
from threading import current_thread

import pytest
import torch
from torch import Tensor

from ckptaudit.measurement import streams
from ckptaudit.measurement.streams import BESIDE, ENTRY, side_by_side

CARD = torch.device("cuda:0")


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A card with room for 300 entries; gives the threads that loaded linear algebra for it."""
    found: list[str] = []

    def load(matrix: Tensor) -> Tensor:
        found.append(current_thread().name)
        return matrix

    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *shape, device: ones(*shape))
    monkeypatch.setattr(torch.linalg, "eigvalsh", load)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (200 * ENTRY, 1000 * ENTRY))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 150 * ENTRY)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 50 * ENTRY)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: object())
    streams._streams.cache_clear()
    yield found
    streams._streams.cache_clear()


@pytest.mark.parametrize(
    ("entries", "count"), [(0, BESIDE), (300 // BESIDE, BESIDE), (150, 2), (151, 1), (1000, 1)]
)
def test_as_many_as_the_free_memory_holds(entries: int, count: int, threads: list[str]) -> None:
    assert side_by_side(CARD, entries) == count


def test_linear_algebra_is_loaded_once_before_there_are_threads(threads: list[str]) -> None:
    for _ in range(2):
        side_by_side(CARD, 0)
    assert threads == ["MainThread"]


def test_one_at_a_time_needs_no_streams(threads: list[str]) -> None:
    side_by_side(CARD, 10**9)
    assert threads == []
