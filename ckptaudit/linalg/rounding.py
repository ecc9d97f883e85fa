"""Rounding to a floating-point grid: how far a number may lie from what was rounded to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

WIDTH = {torch.float64: 8, torch.float32: 4, torch.float16: 2, torch.bfloat16: 2}

EXPONENT = 0x7FF << 52


@dataclass(frozen=True, slots=True)
class Interval:
    """Numbers from `low` to `high`; empty where `low` is the larger."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    @property
    def middle(self) -> float:
        """The number between the ends."""
        return (self.low + self.high) / 2


def spacing(values: Float[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """The distance between neighbours of `dtype` at each value: eps 2^floor(log2 |x|), at least that of subnormals.

    Values are float64. Source: IEEE 754-2019, 3.3.
    """
    info = torch.finfo(dtype)
    # The exponent bits of a float64 alone are the power of two below it.
    power = (values.contiguous().view(torch.int64) & EXPONENT).view(torch.float64)
    return (power * info.eps).clamp_min(info.eps * info.tiny)


def coarser(*dtypes: torch.dtype) -> torch.dtype:
    """The type with the widest steps: bfloat16 before float16 before float32 before float64."""
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)


def narrower(first: torch.dtype, second: torch.dtype) -> torch.dtype:
    """Of two types the one of fewer bytes; the first of bfloat16 and float16, which none of both holds."""
    return second if WIDTH[second] < WIDTH[first] else first


def factor_interval(moved: Float[Tensor, "n"], update: Float[Tensor, "n"], slack: Float[Tensor, "n"]) -> Interval:
    """All c with |moved - c update| <= slack in every entry: the factors that explain it as rounding.

    Each entry with a non-zero update bounds c by (moved -+ slack) / update; the interval is their intersection.
    An entry whose update is zero must lie within the slack by itself.
    """
    still = update == 0
    if bool((moved[still].abs() > slack[still]).any()):
        return Interval(torch.inf, -torch.inf)
    moving = ~still
    if not bool(moving.any()):
        return Interval(-torch.inf, torch.inf)
    ends = torch.stack([(moved - slack)[moving], (moved + slack)[moving]]) / update[moving]
    return Interval(float(ends.amin(dim=0).max()), float(ends.amax(dim=0).min()))
