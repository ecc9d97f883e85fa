"""Streams of a card: what is given to one waits for nothing that was given to another."""

from __future__ import annotations

from functools import cache

import torch

BESIDE = 3
"""Matrices that a card measures at once: while one waits for its decomposition, others are read and copied."""

ENTRY = 96
"""Bytes on the card for each entry that is measured: twelve float64 copies in a batch; a large matrix takes 28."""


def side_by_side(device: torch.device, entries: int) -> int:
    """How many matrices with `entries` entries the free memory of a card holds while they are measured."""
    free, _ = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    count = min(BESIDE, max(1, (free + held) // max(1, ENTRY * entries)))
    if count > 1:
        _streams(device)
    return count


def take_stream(device: torch.device, place: int) -> None:
    """Let this thread give its work to the card's stream of that place, after `side_by_side` has been asked."""
    if device.index is not None:
        torch.cuda.set_device(device)
    torch.cuda.set_stream(_streams(device)[place])


@cache
def _streams(device: torch.device) -> tuple[torch.cuda.Stream, ...]:
    # torch loads its linear algebra for cards when it is first called, and fails where two threads do so at once
    # (https://github.com/pytorch/pytorch/issues/90613).
    torch.linalg.eigvalsh(torch.ones(1, 1, device=device))
    # The same ones each time: memory that one has given back serves that one alone.
    return tuple(torch.cuda.Stream(device) for _ in range(BESIDE))  # type: ignore[no-untyped-call]
