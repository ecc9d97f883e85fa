"""Theorems that settle a question without a decomposition of the tuned side; true bounds, rounding included."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from ckptaudit.linalg.leading import ROWS
from ckptaudit.linalg.products import UNIT

SLACK = 1.0 + 1e-9
"""Allowance for the float64 arithmetic that a bound is put together with."""

GRAM_SLACK = 1e-9
"""Allowance for an eigenvalue of a float64 Gram matrix, as a share of its trace: (rows + 10 columns) eps."""

SLACK_ROW = 1.0 + 1e-4
"""Allowance for the length of rows that were made orthonormal in float32."""


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


def norm_floor(update: Float32[Tensor, "m n"], *, size: float, rounds: int = 2) -> float:
    """Lower bound on norm_2(D) by block power iteration: norm(D x) <= norm_2(D) for any unit x it ends at."""
    width = min(8, *update.shape)
    # As rows: a few rows times a matrix run at the speed of memory, a matrix times a few columns does not.
    x = torch.randn(width, update.shape[1], generator=torch.Generator().manual_seed(0)).to(update.device)
    for _ in range(rounds):
        grown = torch.zeros_like(x)
        for d in _strips(update):
            grown += (x @ d.mT) @ d
        x = torch.linalg.qr(grown.mT).Q.mT.contiguous()
    inner = torch.zeros(width, width, dtype=torch.float64, device=update.device)
    for d in _strips(update):
        y = (x @ d.mT).double()
        inner += y @ y.mT
    best = torch.linalg.eigh(inner).eigenvectors[:, -1]
    norm = math.sqrt(max(float(best @ (inner @ best)), 0.0))
    length = float(torch.linalg.vector_norm(best @ x.double()))
    # Each row of x is unit to rounding, and its image right within (n + 2) units of norm_F(D); `best` mixes them.
    rounding = (update.shape[1] + 2) * UNIT * size * SLACK_ROW * float(best.abs().sum())
    return max(0.0, (norm * (1 - GRAM_SLACK) - rounding) / length / SLACK) if length > 0 else 0.0


def _strips(update: Float32[Tensor, "m n"]) -> Iterator[Float32[Tensor, "_ n"]]:
    for start in range(0, len(update), ROWS):
        yield update[start : start + ROWS]
