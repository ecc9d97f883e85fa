"""One pass over both sides of a matrix, in pieces that stay in the processor's cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from ckptaudit.linalg.masks import visibly_changed
from ckptaudit.linalg.products import empty, mark_nonzero

PIECE = 2**19
"""Entries in a piece: two megabytes of float32."""


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
    for w0, w1, d, mark in pieces(base, tuned, update, changed):
        torch.sub(w1.float(), w0.float(), out=d)
        mark_nonzero(d, mark)
        squares += _square_sum(d)
        differing += int(torch.count_nonzero(mark))
        if not narrow:
            mark.copy_(visibly_changed(w0, w1, eta=eta))
            visible += int(torch.count_nonzero(mark))
    return Difference(update, changed, differing if narrow else visible, differing, float(squares))


def square_sum(matrix: Shaped[Tensor, "m n"]) -> float:
    """norm_F^2 in float64."""
    total = torch.zeros((), dtype=torch.float64, device=matrix.device)
    for (piece,) in pieces(matrix):
        total += _square_sum(piece)
    return float(total)


def pieces(*matrices: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The entries of several matrices of one shape side by side, row by row, as flat views."""
    flats = [matrix.reshape(-1) for matrix in matrices]
    for start in range(0, flats[0].numel(), PIECE):
        yield tuple(flat[start : start + PIECE] for flat in flats)


def _square_sum(piece: Tensor) -> Tensor:
    wide = piece.double()
    return wide.dot(wide)
