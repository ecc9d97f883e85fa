"""The Gram matrix W'W of a matrix in float64, and the singular values that are the roots of its eigenvalues."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Shaped
from torch import Tensor

from ckptaudit.linalg.products import EPS, empty, multiply
from ckptaudit.linalg.symmetric import add_gram, eigenvalues, mirrored

ROWS = 1024
"""Rows at a time: few enough to stay near the processor, enough to keep two threads out of each other's way."""


PARTIAL = 4096
"""Rows whose products are summed before they are added to those of others, where a matrix has more than twice as
many: no sum is then as long as the matrix, and its error that much less."""


@dataclass(frozen=True)
class SingularValues:
    """All singular values as computed, descending; `error` bounds the norm of what they all are off by."""

    s: Float64[Tensor, "r"]
    error: float

    def shift_from(self, before: SingularValues) -> tuple[float, float]:
        """norm(s - s0), and a bound on its error: the triangle inequality."""
        rounding = 4 * EPS * float(torch.linalg.vector_norm(self.s) + torch.linalg.vector_norm(before.s))
        return float(torch.linalg.vector_norm(self.s - before.s)), self.error + before.error + rounding


def tall(weight: Shaped[Tensor, "m n"]) -> Shaped[Tensor, "a b"]:
    """The matrix, transposed if it is wide."""
    return weight.mT if weight.shape[0] < weight.shape[1] else weight


def rows_of(matrix: Shaped[Tensor, "m n"]) -> Iterator[tuple[int, Float64[Tensor, "_ n"]]]:
    """Blocks of rows in float64, each with the index of its first; all share one place in memory."""
    m, n = matrix.shape
    by_rows = matrix.stride(1) == 1
    shape = (min(m, ROWS), n) if by_rows else (n, min(m, ROWS))
    place = empty(*shape, dtype=torch.float64, device=matrix.device)
    for start in range(0, m, ROWS):
        rows = matrix[start : start + ROWS]
        here = place[: len(rows)] if by_rows else place[:, : len(rows)].mT
        yield start, here.copy_(rows)


def gram(matrix: Shaped[Tensor, "m n"]) -> Float64[Tensor, "n n"]:
    """W'W in float64."""
    m, n = matrix.shape
    product = torch.zeros(n, n, dtype=torch.float64, device=matrix.device)
    part = product if m <= 2 * PARTIAL else torch.zeros_like(product)
    for start, rows in rows_of(matrix):
        if len(rows) == m:
            multiply(rows.mT, rows, out=product)
        else:
            add_gram(rows, part)
        end = start + len(rows)
        if part is not product and (end % PARTIAL == 0 or end == m):
            product += part
            part.zero_()
    return mirrored(product)


def gram_error(rows: int, columns: int, squares: Float64[Tensor, "n"]) -> float:
    """Bound on the error of any eigenvalue of the computed W'W, in norm, the eigensolver's included.

    Rounding of the product is at most l eps norm_F(W)^2, l the additions behind an entry: its rows, or those of a
    part and the parts (Higham 2002, section 3.5). The eigensolver's backward error is a modest multiple of
    `columns` eps times the largest eigenvalue.
    """
    added = rows if rows <= 2 * PARTIAL else PARTIAL + -(-rows // PARTIAL)
    return EPS * (added * float(squares.clamp(min=0).sum()) + 10 * columns * max(float(squares[0]), 0.0))


def roots(squares: Float64[Tensor, "r"], doubt: float) -> SingularValues:
    """Singular values from their squares, each of which may be off by `doubt`.

    With l = s^2, abs(s - s') = abs(l - l') / (s + s'), and s' is at least sqrt(l - doubt); where that says nothing,
    abs(s - s') is at most sqrt(abs(l - l')).
    """
    kept = squares.clamp(min=0)
    s = kept.sqrt()
    off = doubt / (s + (kept - doubt).clamp(min=0).sqrt()).clamp_min(1e-300)
    return SingularValues(s, float(torch.linalg.vector_norm(off.clamp(max=math.sqrt(doubt)))))


def singular_values(weight: Shaped[Tensor, "m n"]) -> SingularValues:
    """All singular values by the Gram matrix of the short side."""
    matrix = tall(weight)
    (m, n), squares = matrix.shape, eigenvalues(gram(matrix))
    return roots(squares, gram_error(m, n, squares))
