"""An audit on another device mixes no devices, and gives what the CPU gives; see tests/other_device.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.family import Kind, Shapes
from benchmarks.pair import pair_of
from ckptaudit.metrics import LargePair, PairBatch, matrix_metrics
from ckptaudit.pipeline.api import audit
from tests.other_device import DEVICE, other_device
from tests.pipeline.test_devices import assert_alike

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real device")
SHAPES = Shapes("other", 160, 192, 4, 2, 160)
CASES = {"gate": ("SFT-like", False), "exact": ("rank 8 and noise", True)}


@pytest.mark.parametrize(("update", "exact"), CASES.values(), ids=CASES)
def test_large_matrices(update: str, exact: bool, tmp_path: Path) -> None:
    pair = pair_of(1, tmp_path, Kind("power law", update, SHAPES))
    here = audit(*pair, device="cpu", exact=exact, cache="off")
    for _ in ("first time", "cached"):
        with other_device():
            there = audit(*pair, device=str(DEVICE), exact=exact, cache=tmp_path / "cache")
        assert_alike(there, here)


def test_small_matrices_and_vectors(fixture_pairs: Path) -> None:
    pair = fixture_pairs / "base", fixture_pairs / "sft"
    with other_device():
        there = audit(*pair, device=str(DEVICE), cache="off")
    assert_alike(there, audit(*pair, device="cpu", cache="off"))


def waited_for(count: int) -> int:
    """How many numbers Python waits for while all metrics of a batch are computed."""
    random = torch.Generator().manual_seed(0)
    base = torch.randn(count, 24, 40, generator=random)
    tuned = base + 1e-3 * torch.randn(base.shape, generator=random)
    with other_device() as waits:
        batch = PairBatch(base.to(DEVICE), tuned.to(DEVICE))
        for metric in matrix_metrics().values():
            assert metric.compute(batch).device == DEVICE
            if metric.standard_error is not None:
                metric.standard_error(batch)
    return sum(waits.values())


def test_a_device_is_waited_for_as_often_for_many_matrices_as_for_few() -> None:
    assert waited_for(12) == waited_for(3)


def test_a_mixture_of_devices_is_an_error() -> None:
    with other_device():
        there = torch.ones(3).to(DEVICE)
        assert (there + 1.0).device == DEVICE
        with pytest.raises(RuntimeError, match="same device"):
            _ = there + torch.ones(3)
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        with pytest.raises(RuntimeError, match="same device"):
            LargePair(torch.ones(4, 4).to(DEVICE), torch.zeros(4, 4)).evaluate(lambda pair: pair.update_norm)


def test_the_tuned_side_is_told_from_the_gram_matrix_that_the_spectrum_was_found_from() -> None:
    base = torch.randn(192, 160, generator=torch.Generator().manual_seed(0)).bfloat16()
    tuned = (base.float() + 1e-3).bfloat16()
    kept: dict[str, Mapping[str, Tensor]] = {}
    made: list[str] = []

    def lookup(definition: str, make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        if definition not in kept:
            made.append(definition)
            kept[definition] = make()
        return kept[definition]

    def shift() -> float:
        return float(LargePair(base.to(DEVICE), tuned.to(DEVICE), lookup, exact=True).shift.values)

    with other_device():
        first = shift()
        (entry,) = kept
        assert "gram" not in kept[entry]
        assert shift() == first
        # As another card may round: neither values nor vectors of that entry belong to this card's matrix.
        spoilt = {"gram_sum": kept[entry]["gram_sum"] + 1, "s": 1.5 * kept[entry]["s"]}
        kept[entry] = {**kept[entry], **spoilt}
        assert shift() == first
    assert len(made) == 1
