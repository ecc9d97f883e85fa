"""One pass over both sides of a matrix, in pieces that stay in the processor's cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from ckptaudit.linalg.masks import visibly_changed
from ckptaudit.linalg.products import count_marked, empty, mark_nonzero, multiply

PIECE, LARGE_PIECE = 2**18, 2**24
"""Entries in a piece: a megabyte of float32; many on another device, where a call costs more than what it reads."""


@dataclass(frozen=True)
class Difference:
    """What the pass found.

    `update` is W1 - W0 in float32: the true difference, rounded once. `square_sum` is that of the rounded entries,
    in float64; it is not finite if any entry of either side is not.
    """

    update: Float[Tensor, "m n"]
    changed: Bool[Tensor, "m n"]
    changed_count: int
    differing_count: int
    square_sum: float

    @property
    def is_finite(self) -> bool:
        """Whether both sides are free of NaN and infinity, and their difference within float32."""
        return self.square_sum < float("inf")


def difference(base: Shaped[Tensor, "m n"], tuned: Shaped[Tensor, "m n"], *, eta: float) -> Difference:
    """Compare two matrices stored in bf16, fp16 or float32.

    Two different numbers never have a float32 difference of zero, so the update tells which entries differ;
    and where both sides are bf16 those are the entries that changed visibly.
    """
    update = empty(*base.shape, dtype=torch.float32, device=base.device)
    changed = empty(*base.shape, dtype=torch.bool, device=base.device)
    narrow = base.dtype == tuned.dtype == torch.bfloat16
    differing, visible = 0, 0
    squares = torch.zeros((), dtype=torch.float64, device=base.device)
    # One place for all pieces: to be given memory takes as long as to fill it.
    before, wide = _place(base, torch.float32), _place(base, torch.float64)
    for w0, w1, d, mark in pieces(base, tuned, update, changed):
        d.copy_(w1).sub_(before[: len(d)].copy_(w0))
        mark_nonzero(d, mark)
        squares += _square_sum(d, wide)
        differing += count_marked(mark)
        if not narrow:
            mark.copy_(visibly_changed(w0, w1, eta=eta))
            visible += count_marked(mark)
    return Difference(update, changed, differing if narrow else visible, differing, float(squares))


def square_sum(matrix: Shaped[Tensor, "m n"]) -> float:
    """norm_F^2 in float64."""
    total = torch.zeros((), dtype=torch.float64, device=matrix.device)
    wide = _place(matrix, torch.float64)
    for (piece,) in pieces(matrix):
        total += _square_sum(piece, wide)
    return float(total)


def pieces(*matrices: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The entries of several matrices of one shape side by side, row by row, as flat views."""
    flats = [matrix.reshape(-1) for matrix in matrices]
    size = _piece(flats[0])
    for start in range(0, flats[0].numel(), size):
        yield tuple(flat[start : start + size] for flat in flats)


def _piece(matrix: Tensor) -> int:
    return PIECE if matrix.device.type == "cpu" else LARGE_PIECE


def _place(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Room for one piece."""
    return empty(min(_piece(matrix), matrix.numel()), dtype=dtype, device=matrix.device)


def _square_sum(piece: Tensor, place: Tensor) -> Tensor:
    wide = place[: len(piece)].copy_(piece)
    if wide.device.type != "cpu":
        return wide.dot(wide)
    row = wide[None]
    return multiply(row, row.mT)[0, 0]
