"""The leading singular triplets of one matrix, with a bound on how far they are from being exact."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Float, Float32, Float64, Shaped
from torch import Tensor

EPS = torch.finfo(torch.float64).eps

CERTAIN = 1e-7
"""Largest relative error of the square of the last singular value kept, for the Gram matrix to be relied on."""

ROWS = 1024
"""Rows that are widened to float64 at a time."""


@dataclass(frozen=True)
class Leading:
    """`W V = U diag(s)` and `W' U = V diag(s)` for the leading singular values, up to `error` in spectral norm.

    The vectors are kept in float32, rounded from float64; `error` speaks of them before that rounding.
    """

    s: Float64[Tensor, "c"]
    left: Float32[Tensor, "m c"]
    right: Float32[Tensor, "n c"]
    error: float
    all_s: Float64[Tensor, "r"]
    short: Float32[Tensor, "r _"]
    """All singular values, and all singular vectors of the short side."""


def rows_of(tall: Shaped[Tensor, "m n"]) -> Iterator[tuple[int, Float64[Tensor, "_ n"]]]:
    """Blocks of rows in float64, each with the index of its first."""
    for start in range(0, tall.shape[0], ROWS):
        yield start, tall[start : start + ROWS].double()


def gram(tall: Shaped[Tensor, "m n"]) -> Float64[Tensor, "n n"]:
    """W'W in float64, its upper triangle computed by blocks and mirrored."""
    n = tall.shape[1]
    product = torch.zeros(n, n, dtype=torch.float64, device=tall.device)
    for _, rows in rows_of(tall):
        for a, b in blocks(n):
            product[a:b, a:].addmm_(rows[:, a:b].mT, rows[:, a:])
    return mirrored(product)


def blocks(n: int) -> list[tuple[int, int]]:
    """Ranges of columns: four, which spare three eighths of a symmetric product."""
    edges = [n * i // 4 for i in range(5)] if n >= 64 else [0, n]
    return list(pairwise(edges))


def mirrored(upper: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """A matrix of which only the blocks on and above the diagonal have been computed, made symmetric."""
    for a, b in blocks(upper.shape[0]):
        upper[b:, a:b] = upper[a:b, b:].mT
    return upper


def gram_error(rows: int, columns: int, squares: Float64[Tensor, "n"]) -> float:
    """Bound on the error of any eigenvalue of the computed W'W, in norm, the eigensolver's included.

    Rounding of the product is at most `rows` eps norm_F(W)^2 (Higham 2002, section 3.5), the
    eigensolver's backward error a modest multiple of `columns` eps times the largest eigenvalue.
    """
    return EPS * (rows * float(squares.clamp(min=0).sum()) + 10 * columns * max(float(squares[0]), 0.0))


def leading(weight: Shaped[Tensor, "m n"], count: int) -> Leading | None:
    """The `count` leading triplets; None where the matrix has fewer that rounding leaves any meaning.

    From the Gram matrix of the short side where that is accurate enough, else from a decomposition of the
    matrix itself.
    """
    wide = weight.shape[0] < weight.shape[1]
    tall = weight.mT if wide else weight
    found = _by_gram(tall, count) or _directly(tall, count)
    if found is None or not wide:
        return found
    return replace(found, left=found.right, right=found.left)


def _by_gram(tall: Shaped[Tensor, "m n"], count: int) -> Leading | None:
    m, n = tall.shape
    product = gram(tall)
    values, vectors = torch.linalg.eigh(product)
    squares = values.flip(0)
    doubt = gram_error(m, n, squares)
    last = float(squares[count - 1])
    if not last * CERTAIN > doubt:
        return None
    v = vectors.flip(1)[:, :count].contiguous()
    s = squares[:count].sqrt()
    u, skew = _images(tall, v, s)
    residual = _size(product @ v - v * squares[:count])
    # W v_i = s_i u_i holds by construction; W'u_i - s_i v_i is the eigenvector's residual over s_i.
    error = (residual + doubt) / float(s[-1]) + 2 * skew * float(s[0]) + _rounding(m, n, s)
    return Leading(s, u, v.float(), error, squares.clamp(min=0).sqrt(), vectors.flip(1).float().contiguous())


def _images(
    tall: Shaped[Tensor, "m n"], v: Float64[Tensor, "n c"], s: Float64[Tensor, "c"]
) -> tuple[Float32[Tensor, "m c"], float]:
    """W v_i / s_i, and how far these vectors are from orthonormal (norm_F of U'U - I)."""
    u = torch.empty(tall.shape[0], len(s), dtype=torch.float32, device=tall.device)
    inner = torch.zeros(len(s), len(s), dtype=torch.float64, device=tall.device)
    for start, rows in rows_of(tall):
        part = (rows @ v) / s
        inner.addmm_(part.mT, part)
        u[start : start + len(part)] = part
    inner.diagonal().sub_(1)
    return u, _size(inner)


def _directly(tall: Shaped[Tensor, "m n"], count: int) -> Leading | None:
    matrix = tall.double()
    m, n = matrix.shape
    u, s, vh = torch.linalg.svd(matrix.contiguous(), full_matrices=False)
    all_s, short = s, vh.mT.float().contiguous()
    u, s, v = u[:, :count], s[:count], vh[:count].mT
    if not float(s[-1]) * CERTAIN > m * EPS * float(s[0]):
        return None
    residual = _size(matrix @ v - u * s) + _size(matrix.mT @ u - v * s)
    skew = sum(_size(w.mT @ w - torch.eye(count).to(w)) for w in (u, v))
    return Leading(s, u.float(), v.float(), residual + 2 * skew * float(s[0]) + _rounding(m, n, s), all_s, short)


def _size(matrix: Float64[Tensor, "a b"]) -> float:
    return float(torch.linalg.matrix_norm(matrix))


def _rounding(m: int, n: int, s: Float64[Tensor, "c"]) -> float:
    """Allowance for the float64 products behind the residuals: norm_F(W) is at most sqrt(n) s_1."""
    return (m + n) * EPS * math.sqrt(n * len(s)) * float(s[0]) * float(s[0] / s[-1])
