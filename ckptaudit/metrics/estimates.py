"""A number together with how it was computed and how far it may be off."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ckptaudit.metrics.measurement import Method


@dataclass(frozen=True)
class Estimate:
    """Values of a batch, and the largest absolute error that the method leaves; None for float64 rounding."""

    values: Float[Tensor, "batch"]
    method: Method = "direct"
    error: Float[Tensor, "batch"] | None = None

    @property
    def relative_error(self) -> Float[Tensor, "batch"]:
        """The error as a share of the value; 0 where none is stated."""
        if self.error is None:
            return torch.zeros_like(self.values)
        size = self.values.abs()
        return torch.where(size > 0, self.error / torch.where(size > 0, size, 1.0), torch.inf)


def derived(values: Float[Tensor, "batch"], parts: list[Estimate], *, is_difference: bool = False) -> Estimate:
    """Values that are products or quotients of estimates and exact numbers: relative errors carry over.

    Where they are differences of an estimate and an exact number, absolute errors do.
    """
    stated = [part for part in parts if part.error is not None]
    if not stated:
        return Estimate(values, next((part.method for part in parts if part.method != "direct"), "direct"))
    worst = max(stated, key=lambda part: float(part.relative_error.amax()))
    relative = torch.stack([part.relative_error for part in stated]).amax(dim=0)
    absolute = torch.stack([part.error for part in stated if part.error is not None]).amax(dim=0)
    carried = relative.isfinite() & (not is_difference)
    return Estimate(values, worst.method, torch.where(carried, relative * values.abs(), absolute))
