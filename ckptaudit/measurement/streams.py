"""Streams of a card: what is given to one waits for nothing that was given to another."""

from __future__ import annotations

from functools import cache

import torch

BESIDE = 3
"""Matrices that a card measures at once: while one waits for its decomposition, others are read and copied."""

ENTRY = 64
"""Bytes on the card for each entry of a matrix, and as much again, while it is measured."""


def side_by_side(device: torch.device, entries: int) -> int:
    """How many matrices of so many entries the memory that is free on a card holds while they are measured."""
    free, _ = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(BESIDE, max(1, (free + held) // max(1, ENTRY * entries)))


def take_stream(device: torch.device, place: int) -> None:
    """Let this thread give its work to the card's stream of that place."""
    if device.index is not None:
        torch.cuda.set_device(device)
    torch.cuda.set_stream(_streams(device)[place])


@cache
def _streams(device: torch.device) -> tuple[torch.cuda.Stream, ...]:
    # The same ones each time: memory that one has given back serves that one alone.
    return tuple(torch.cuda.Stream(device) for _ in range(BESIDE))  # type: ignore[no-untyped-call]
