"""The leading singular triplets of one matrix, with a bound on how far they are from being exact."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float32, Float64, Shaped
from torch import Tensor

from ckptaudit.linalg.products import EPS, UNIT, empty, multiply
from ckptaudit.linalg.symmetric import Eigen, add_gram, eigenvectors, mirrored, skew

CERTAIN = 1e-7
"""Largest relative error of the square of the last singular value kept, for the Gram matrix to be relied on."""

GRAM_SIDE = 1536
"""Up to this short side a Gram matrix in float64 stays in a processor's cache, and is quick to decompose."""

ROWS = 1024
"""Rows at a time: few enough to stay near the processor, enough to keep two threads out of each other's way."""

COLUMNS = 128
"""Products that are summed at a time where the sum's rounding has to be bounded."""


@dataclass(frozen=True)
class Leading:
    """`W V = U diag(s)` and `W' U = V diag(s)` for the leading singular values, up to `error` in spectral norm.

    That speaks of the vectors before they are rounded to float32; `blur` bounds what that does to any one of them.
    """

    s: Float64[Tensor, "c"]
    left: Float32[Tensor, "m c"]
    right: Float32[Tensor, "n c"]
    error: float
    blur: float


@dataclass(frozen=True)
class Spectrum:
    """All singular values of a matrix, descending, and what it takes to find those of the tuned side.

    Up to GRAM_SIDE that is the Gram matrix W'W of the tall matrix, with leading vectors of its short side; beyond,
    all of those vectors, in float32, and no Gram matrix.
    """

    s: Float64[Tensor, "r"]
    short: Float[Tensor, "r c"]
    gram: Float64[Tensor, "r r"] | None


def rows_of(tall: Shaped[Tensor, "m n"]) -> Iterator[tuple[int, Float64[Tensor, "_ n"]]]:
    """Blocks of rows in float64, each with the index of its first; they lie in one place, one after the other."""
    m, n = tall.shape
    by_rows = tall.stride(1) == 1
    shape = (min(m, ROWS), n) if by_rows else (n, min(m, ROWS))
    place = empty(*shape, dtype=torch.float64, device=tall.device)
    for start in range(0, m, ROWS):
        rows = tall[start : start + ROWS]
        here = place[: len(rows)] if by_rows else place[:, : len(rows)].mT
        yield start, here.copy_(rows)


def gram(tall: Shaped[Tensor, "m n"]) -> Float64[Tensor, "n n"]:
    """W'W in float64."""
    n = tall.shape[1]
    product = torch.zeros(n, n, dtype=torch.float64, device=tall.device)
    for _, rows in rows_of(tall):
        add_gram(rows, product)
    return mirrored(product)


def gram_error(rows: int, columns: int, squares: Float64[Tensor, "n"]) -> float:
    """Bound on the error of any eigenvalue of the computed W'W, in norm, the eigensolver's included.

    Rounding of the product is at most `rows` eps norm_F(W)^2 (Higham 2002, section 3.5), the
    eigensolver's backward error a modest multiple of `columns` eps times the largest eigenvalue.
    """
    return EPS * (rows * float(squares.clamp(min=0).sum()) + 10 * columns * max(float(squares[0]), 0.0))


def spectrum(weight: Shaped[Tensor, "m n"], count: int) -> Spectrum | None:
    """All singular values; None where the first `count` drown in rounding.

    From the Gram matrix of the short side where that is accurate enough, else from a decomposition of the
    matrix itself.
    """
    tall = weight.mT if weight.shape[0] < weight.shape[1] else weight
    m, n = tall.shape
    product = gram(tall)
    if n <= GRAM_SIDE:
        found = Eigen(product)
        certain = float(found.values[count - 1]) * CERTAIN > gram_error(m, n, found.values)
        return Spectrum(found.values.clamp(min=0).sqrt(), found.vectors(count), product) if certain else None
    squares, vectors = eigenvectors(product)
    if float(squares[count - 1]) * CERTAIN > gram_error(m, n, squares):
        return Spectrum(squares.clamp(min=0).sqrt(), vectors.float().contiguous(), None)
    _, s, vh = torch.linalg.svd(tall.double().contiguous(), full_matrices=False)
    if not float(s[count - 1]) * CERTAIN > m * EPS * float(s[0]):
        return None
    return Spectrum(s, vh.mT.float().contiguous(), None)


def part(weight: Shaped[Tensor, "m n"], short: Float32[Tensor, "r c"]) -> Float32[Tensor, "m n"]:
    """The best approximation of rank c, from the leading vectors of the short side: W V V', or U U'W."""
    m, n = weight.shape
    found = empty(m, n, dtype=torch.float32, device=weight.device)
    inside = torch.zeros(short.shape[1], n, dtype=torch.float32, device=weight.device)
    for start in range(0, m, ROWS):
        rows, end = weight[start : start + ROWS].float(), start + ROWS
        if m >= n:
            found[start:end] = multiply(multiply(rows, short), short.mT)
        else:
            inside += multiply(short[start:end].mT, rows)
    return found if m >= n else multiply(short, inside)


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
    found = Eigen(product)
    doubt, squares = gram_error(m, n, found.values), found.values[:count]
    if not float(squares[-1]) * CERTAIN > doubt:
        return None
    v, s = found.vectors(count), squares.sqrt()
    applied = multiply(product, v)
    residual = _size(applied - v * squares)
    # With U = W V / s, W v_i = s_i u_i holds by definition, W'u_i - s_i v_i is the eigenvector's residual over s_i,
    # and U'U is V'(W'W)V / s / s.
    inner = multiply(v.mT, applied) / s / s[:, None]
    inner.diagonal().sub_(1)
    tilt = _size(inner) + doubt / float(squares[-1]) + skew(v)
    error = (residual + doubt) / float(s[-1]) + 2 * tilt * float(s[0]) + _rounding(m, n, s)
    u = _images(tall, v.float()).div_(s.float())
    norm = math.sqrt(float(product.diagonal().sum()))
    blur = (COLUMNS + -(-n // COLUMNS) + 4) * UNIT * norm / float(s[-1])
    return Leading(s, u, v.float(), error, blur)


def _images(tall: Shaped[Tensor, "m n"], v: Float32[Tensor, "n c"]) -> Float32[Tensor, "m c"]:
    """W V in float32, by strips of columns: no sum is longer than a strip or the number of strips.

    Summing l products errs by at most l units of the sum of their absolute values (Higham 2002, section 3.5).
    """
    u = empty(tall.shape[0], v.shape[1], dtype=torch.float32, device=tall.device)
    for start in range(0, len(u), ROWS):
        rows, here = tall[start : start + ROWS].float(), u[start : start + ROWS]
        here.zero_()
        for column in range(0, len(v), COLUMNS):
            here += multiply(rows[:, column : column + COLUMNS], v[column : column + COLUMNS])
    return u


def _directly(tall: Shaped[Tensor, "m n"], count: int) -> Leading | None:
    matrix = tall.double()
    m, n = matrix.shape
    u, s, vh = torch.linalg.svd(matrix.contiguous(), full_matrices=False)
    u, s, v = u[:, :count], s[:count], vh[:count].mT
    if not float(s[-1]) * CERTAIN > m * EPS * float(s[0]):
        return None
    residual = _size(matrix @ v - u * s) + _size(matrix.mT @ u - v * s)
    tilt = skew(u) + skew(v)
    return Leading(s, u.float(), v.float(), residual + 2 * tilt * float(s[0]) + _rounding(m, n, s), UNIT)


def _size(matrix: Float64[Tensor, "a b"]) -> float:
    return float(torch.linalg.matrix_norm(matrix))


def _rounding(m: int, n: int, s: Float64[Tensor, "c"]) -> float:
    """Allowance for the float64 products behind the residuals: norm_F(W) is at most sqrt(n) s_1."""
    return (m + n) * EPS * math.sqrt(n * len(s)) * float(s[0]) * float(s[0] / s[-1])
