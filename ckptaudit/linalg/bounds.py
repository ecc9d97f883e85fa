"""Theorems that settle a question without a decomposition of the tuned side; true bounds, rounding included."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from ckptaudit.linalg.products import UNIT, multiply

SLACK = 1.0 + 1e-9
"""Allowance for the float64 arithmetic that a bound is put together with."""

GRAM_SLACK = 1e-9
"""Allowance for an eigenvalue of a float64 Gram matrix, as a share of its trace: (rows + 10 columns) eps."""

WIDTH, ROUNDS = 8, 2
"""Directions in a block, and blocks, among which the largest image of an update is sought."""

EVERY = 8
"""One row in this many is enough to begin with."""

STRIP = 120_000
"""Entries of an update that WIDTH directions are multiplied by at a time: they stay near the processor, and are no
more than BLAS multiplies as they lie, without a copy."""

ROWS = 1024
"""Rows of a strip on another device: few calls, and sums short enough for their rounding."""

RANK = 1e-3
"""Images shorter than this (squared, as a share of the longest) are nothing to look for the largest in."""


def rounding_margin(m: int, n: int) -> float:
    """Relative allowance for evaluating a norm of m n float64 squares: (m n + 8) eps.

    Any order of summation keeps within m n units of relative error on a sum of squares; the root
    halves it and the quotient of two norms doubles it again.
    """
    return (m * n + 8) * torch.finfo(torch.float64).eps


def mirsky(
    update_norm: Float[Tensor, "batch"], base_norm: Float[Tensor, "batch"], *, m: int, n: int
) -> Float[Tensor, "batch"]:
    """Upper bound on the normalized spectral shift: norm(s(W1) - s(W0)) <= norm_F(W1 - W0)   (Mirsky 1960).

    A zero base reads 1 if anything changed, as the shift itself does.
    """
    margin = 1.0 + rounding_margin(m, n) + 2 * UNIT
    ratio = update_norm / torch.where(base_norm > 0, base_norm, torch.ones_like(base_norm))
    return torch.where(base_norm > 0, ratio * margin, (update_norm > 0).double())


def degrees(sine: float) -> float:
    """The angle of a sine, rounded up."""
    return min(90.0, math.degrees(math.asin(min(1.0, sine))) * SLACK)


def mean_degrees(largest: float, rms: float) -> float:
    """Bound on a mean angle from bounds on the largest sine and the root mean square: asin(x) <= pi/2 x."""
    return min(degrees(largest), 90.0 * rms * SLACK)


def norm_floor(update: Float32[Tensor, "m n"], *, size: float) -> float:
    """Lower bound on norm_2(D) by block Lanczos steps: norm(D'y) <= norm_2(D) norm(y), the best y of their span.

    From a random block X on, turned towards the largest by a power iteration with some rows of D: Y = D X, Z = D'Y,
    and the next X is Z, made orthonormal to the earlier one. Whatever rounding did to X and Y, Z is D'Y in sums no
    longer than a strip or the number of strips, right within as many units relative to norm_F(D) norm(y) (Higham
    2002, section 3.5), and a few more for the update's own rounding.
    """
    m, n = update.shape
    rows = max(1, min(m, STRIP // n if update.device.type == "cpu" else ROWS))
    block = torch.randn(min(WIDTH, m, n), n, generator=torch.Generator().manual_seed(0)).to(update.device)
    basis, ys, zs = block[:0], list[Tensor](), list[Tensor]()
    for _ in range(ROUNDS):
        _, block = _there_and_back(_orthonormal(basis, block) / size, update[::EVERY], rows)
    for _ in range(ROUNDS):
        block = _orthonormal(basis, block)
        y, z = _there_and_back(block / size, update, rows)
        basis, block, ys, zs = torch.cat([basis, block]), z, [*ys, y], [*zs, z]
    lost = (rows + -(-m // rows) + 4) * UNIT * size
    return _largest_quotient(torch.cat(ys).double(), torch.cat(zs).double(), lost)


def _orthonormal(basis: Float32[Tensor, "b n"], block: Float32[Tensor, "w n"]) -> Float32[Tensor, "_ n"]:
    """The block's rows, made orthonormal to each other and to the basis."""
    # As rows: a few of them times a matrix run at the speed of memory, a matrix times a few columns does not.
    rows: Tensor = torch.linalg.qr(torch.cat([basis, block]).mT).Q[:, len(basis) :].mT
    return rows.contiguous()


def _there_and_back(
    x: Float32[Tensor, "w n"], update: Float32[Tensor, "m n"], rows: int
) -> tuple[Float32[Tensor, "w m"], Float32[Tensor, "w n"]]:
    """X D' and X D'D, as rows, in one pass: strip by strip, while it is near the processor."""
    there, back = list[Tensor](), torch.zeros_like(x)
    for start in range(0, len(update), rows):
        d = update[start : start + rows]
        there.append(multiply(x, d.mT))
        back += multiply(there[-1], d)
    return torch.cat(there, dim=1), back


def _largest_quotient(y: Float64[Tensor, "w m"], z: Float64[Tensor, "w n"], lost: float) -> float:
    """The largest norm(c'Z) / norm(c'Y), rounded down, where each row of Z is right within `lost` norm(y)."""
    values, vectors = torch.linalg.eigh(y @ y.mT)
    there = values > RANK * values[-1]
    if not bool(there.any()):
        return 0.0
    whitened = vectors[:, there] / values[there].sqrt()
    images = whitened.mT @ z
    c = whitened @ torch.linalg.eigh(images @ images.mT).eigenvectors[:, -1]
    lengths = float(c.abs() @ torch.linalg.vector_norm(y, dim=1))
    longest = float(torch.linalg.vector_norm(c @ y)) + GRAM_SLACK * lengths
    shortest = float(torch.linalg.vector_norm(c @ z)) * (1 - GRAM_SLACK) - lost * lengths
    return max(0.0, shortest / longest / SLACK) if longest > 0 else 0.0
