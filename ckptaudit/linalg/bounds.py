"""Theorems that settle a question without a decomposition; true upper bounds, rounding included."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


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
    margin = 1.0 + rounding_margin(m, n)
    ratio = update_norm / torch.where(base_norm > 0, base_norm, torch.ones_like(base_norm))
    return torch.where(base_norm > 0, ratio * margin, (update_norm > 0).double())
