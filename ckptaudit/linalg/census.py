"""How many weights of a matrix lie in each binade [2^e, 2^(e+1)), all of which have one unit in the last place."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64, Shaped
from torch import Tensor

SAMPLE = 2**18
"""Entries, about, that a census looks at: binade shares are then right to a thousandth."""

BINADES = 256
BIAS = 127
"""bf16 has eight bits of exponent, biased by 127."""

ON_GRID = 0.99
"""Share of weights that are bf16 numbers from which on all are taken for such."""

Rates = Float64[Tensor, "binades"]


@dataclass(frozen=True)
class Census:
    """How many of a matrix's sampled weights lie in each binade; a weight of zero is in binade 0.

    `on_grid`: the weights are bf16 numbers, whatever they are stored as. `sampled`: not all were looked at.
    """

    every: Int64[Tensor, "binades"]
    on_grid: bool
    sampled: bool = False

    @property
    def size(self) -> int:
        """Number of weights looked at."""
        return int(self.every.sum())

    def smallest(self, alpha: float) -> Rates:
        """How many of the floor(alpha N) smallest lie in each binade; the last binade is cut where they end."""
        left = int(alpha * self.size) - self.every.cumsum(0) + self.every
        return torch.minimum(left.clamp(min=0), self.every).double()


def sample(m: int, n: int) -> slice:
    """Which entries of an m x n matrix, row by row, are looked at: all, or some of every column."""
    stride = max(1, -(-m * n // SAMPLE))
    while stride > 1 and math.gcd(stride, n) > 1:
        stride += 1
    return slice(None, None, stride)


def census(weight: Shaped[Tensor, "m n"]) -> Census:
    """Count the weights, or a fixed sample of a large matrix, by binade."""
    return censuses(weight[None])[0]


def censuses(weights: Shaped[Tensor, "batch m n"]) -> tuple[Census, ...]:
    """The same of each matrix of a stack."""
    chosen = sample(*weights.shape[1:])
    values = weights.flatten(1)[:, chosen]
    exact = (values.to(torch.bfloat16).to(values.dtype) == values).double().sum(dim=1) / max(1, values.shape[1])
    every = _counted(binades(values), torch.ones_like(values, dtype=torch.bool))
    on_grid = [share >= ON_GRID or not values.shape[1] for share in exact.tolist()]
    return tuple(Census(*known, sampled=chosen.step > 1) for known in zip(every, on_grid, strict=True))


def census_among(weight: Shaped[Tensor, "m n"], marked: Bool[Tensor, "e"]) -> Int64[Tensor, "binades"]:
    """How many of the sampled weights that are marked lie in each binade; `marked` is of the sample."""
    return censuses_among(weight[None], marked[None])[0]


def censuses_among(
    weights: Shaped[Tensor, "batch m n"], marked: Bool[Tensor, "batch e"]
) -> Int64[Tensor, "batch binades"]:
    """The same of each matrix of a stack."""
    return _counted(binades(weights.flatten(1)[:, sample(*weights.shape[1:])]), marked)


def _counted(places: Int64[Tensor, "batch e"], marked: Bool[Tensor, "batch e"]) -> Int64[Tensor, "batch binades"]:
    """How often each binade occurs in each row, where it is marked; on the CPU."""
    # One count of all rows: a device is waited for once and not for each matrix.
    rows, nowhere = len(places), len(places) * BINADES
    first = BINADES * torch.arange(rows, device=places.device)[:, None]
    bins = torch.where(marked, places + first, nowhere).flatten()
    return torch.bincount(bins, minlength=nowhere + 1).cpu()[:nowhere].view(rows, BINADES)


def binades(values: Shaped[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """The index of each weight's binade: the exponent that it has as a bf16 number."""
    bits = values.to(torch.bfloat16).view(torch.int16).to(torch.int32)
    return ((bits & 0x7FFF) >> 7).long()
