"""What an update does to a Gram matrix: products of D with the base and with itself, in float32, and their error.

All matrices are tall. Nothing of the base's size cancels: errors are relative to the update, not to the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Float64, Shaped
from torch import Tensor

from ckptaudit.linalg.products import UNIT, multiply
from ckptaudit.linalg.symmetric import add_gram, largest_eigenvalues, mirrored

VALUE_ERROR = 2e-4
"""Largest relative error of the square of a singular value of the update."""

NARROW_SIDE = 512
"""From this side on eigenvalues in float32 come noticeably sooner than in float64."""

ANGLE_ERROR = 1e-4
"""Largest error in radians that rounding may cause in an angle on the left: six thousandths of a degree."""

ROWS = 1024
FEW_ROWS = 256
"""Rows at a time: for products, and for passes that are to stay in the processor's cache."""


@dataclass(frozen=True)
class SubspaceAngles:
    """Principal angles in degrees, ascending, between base and tuned singular subspaces."""

    left: Float64[Tensor, "k"]
    right: Float64[Tensor, "k"]


def angles_of(sines: Float64[Tensor, "k k"]) -> Float64[Tensor, "k"]:
    """Angles in degrees, ascending, from the matrix whose eigenvalues are their squared sines."""
    values = torch.linalg.eigvalsh(0.5 * (sines + sines.mT)).clamp(0.0, 1.0)
    return torch.rad2deg(torch.asin(values.sqrt()))


def spectral_shift(s: Float64[Tensor, "r"], squares: Float64[Tensor, "r"]) -> float:
    """The spectral shift norm(s(W1) - s(W0)), from singular values of one side and squares of the other's."""
    # As a quotient: the difference of two roots would lose what the difference of the squares still has.
    total = (squares.sqrt() + s).clamp_min(1e-300)
    return float(torch.linalg.vector_norm((squares - s.square()) / total))


def expected_shift_error(s: Float64[Tensor, "r"], error: float) -> float:
    """Three times what an error of C without preferred direction, of this norm_F, may be expected to shift."""
    return 3 * error / math.sqrt(len(s)) * float(torch.linalg.vector_norm(0.5 / s.clamp_min(1e-300)))


def cross_product(base: Shaped[Tensor, "m r"], update: Float32[Tensor, "m r"]) -> Float32[Tensor, "r r"]:
    """(W0 + D/2)'D, which with its transpose is what D adds to W0'W0."""
    cross = torch.zeros(base.shape[1], base.shape[1], dtype=torch.float32, device=base.device)
    for start in range(0, base.shape[0], ROWS):
        d = update[start : start + ROWS]
        cross.addmm_(torch.add(base[start : start + ROWS].float(), d, alpha=0.5).mT, d)
    return cross


def own_product(update: Float32[Tensor, "m r"]) -> Float32[Tensor, "r r"]:
    """D'D."""
    r = update.shape[1]
    product = torch.zeros(r, r, dtype=torch.float32, device=update.device)
    add_gram(update, product)
    return mirrored(product)


def update_values(own: Float32[Tensor, "r r"], count: int) -> Float64[Tensor, "c"] | None:
    """The largest singular values of D, descending, from D'D; None where the last may err by a ten-thousandth.

    The eigensolver errs by a few units of the largest eigenvalue, the product by less than a unit of the trace.
    """
    narrow = len(own) >= NARROW_SIDE
    squares = largest_eigenvalues(own if narrow else own.double(), count)
    last = float(squares[-1])
    if narrow and not last * VALUE_ERROR > 10 * UNIT * float(squares[0]):
        squares = largest_eigenvalues(own.double(), count)
    if not last * VALUE_ERROR > UNIT * float(own.diagonal().double().sum()):
        return None
    values: Tensor = squares.clamp(min=0).sqrt()
    return values


def change_error(
    act: Callable[[Float32[Tensor, "p r"]], Float32[Tensor, "p r"]],
    base: Shaped[Tensor, "m r"],
    tuned: Shaped[Tensor, "m r"],
    update: Float32[Tensor, "m r"],
    *,
    probes: int = 2,
) -> float:
    """norm_F of the error of C, given by what it makes of rows, estimated by what it makes of random ones.

    The mean square of norm(E z) over Gaussian z is norm_F(E)^2. Rounding errors have no preferred direction, so
    that few vectors tell. What C should make of them is found as W0'D + D'W1, in which nothing cancels: float32
    adds errors of the kind that are being measured, no larger.
    """
    random = torch.Generator().manual_seed(0)
    # As rows, which run at the speed of memory.
    z = torch.randn(probes, base.shape[1], generator=random).to(base.device)
    grown = torch.zeros_like(z)
    rows = FEW_ROWS if base.device.type == "cpu" else 4 * ROWS
    for start in range(0, base.shape[0], rows):
        before, after, d = (side[start : start + rows].float() for side in (base, tuned, update))
        grown += multiply(multiply(z, d.mT), before) + multiply(multiply(z, after.mT), d)
    return float(torch.linalg.matrix_norm((grown - act(z)).double())) / math.sqrt(probes)
