"""The null model behind the excesses: an update that is blind to the weights, once it is stored.

A blind update adds an independent Gaussian of one standard deviation to every weight, and the result is rounded
to the stored type. The deviation is the one that changes as many entries visibly as the update in question does,
and its tails are no lighter than the update's norm asks for.
All follows from how many weights lie in each binade [2^e, 2^(e+1)): throughout one the unit in the last place is
the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float64, Int64, Shaped
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor

SAMPLE = 2**18
"""Entries, about, that a census looks at: binade shares are then right to a thousandth."""

BINADES = 256
BIAS = 127
"""bf16 has eight bits of exponent, biased by 127."""

HALF_UNITS = torch.exp2(torch.arange(BINADES, dtype=torch.float64).clamp(min=1) - BIAS - 8)
"""By binade, half a bf16 unit in the last place."""

LEAST, MOST = -160.0, 130.0
"""Exponents between which a deviation is sought: from less than the least number to more than the largest."""

ROUNDS, POINTS = 6, 64
"""Grids one within the other, each of so many deviations: the last tells them apart by 5e-9."""

HEAVIER = 1.05
"""Share of a Gaussian step's energy past which the update's tails count as heavier."""

WIDEST, HALVINGS = 2.0, 9
_HERMITE = hermegauss(9)
NODES, WEIGHTS = _HERMITE[0].tolist(), (_HERMITE[1] / math.sqrt(2 * math.pi)).tolist()
"""Gauss-Hermite nodes and weights of the logarithm of the deviation."""

TERMS = 48
FINE = 0.2
"""Below this unit, in deviations, rounding is as good as an independent uniform error."""

ON_GRID = 0.99
"""Share of weights that are bf16 numbers from which on all are taken for such."""

Rates = Float64[Tensor, "binades"]
Values = Float64[Tensor, "..."]


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
    chosen = sample(*weight.shape)
    values = weight.reshape(-1)[chosen]
    exact = float((values.to(torch.bfloat16).to(values.dtype) == values).double().mean()) if len(values) else 1.0
    every = torch.bincount(binades(values), minlength=BINADES).cpu()
    return Census(every, exact >= ON_GRID, sampled=chosen.step > 1)


def census_among(weight: Shaped[Tensor, "m n"], marked: Bool[Tensor, "e"]) -> Int64[Tensor, "binades"]:
    """How many of the sampled weights that are marked lie in each binade; `marked` is of the sample."""
    values = weight.reshape(-1)[sample(*weight.shape)]
    return torch.bincount(binades(values[marked]), minlength=BINADES).cpu()


def binades(values: Shaped[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """The index of each weight's binade: the exponent that it has as a bf16 number."""
    bits = values.to(torch.bfloat16).view(torch.int16).to(torch.int32)
    return ((bits & 0x7FFF) >> 7).long()


@dataclass(frozen=True)
class BlindUpdate:
    """The blind update that changes the share `visible` of the weights of a census as bf16 numbers.

    `energy` is the mean square of the changes as stored, in a type of `bits` bits of precision. Steps are Gaussian
    unless that needs heavier tails, as a product of few factors has them: the deviation is then lognormal, with
    the width `tail` that gives the energy at the same visible share. Weights of zero, which any update would
    change, are taken for frozen where the share leaves no room for them.
    """

    census: Census
    visible: float
    energy: float = 0.0
    bits: int = 8

    @cached_property
    def counts(self) -> Rates:
        """Weights in each binade, those that are frozen left out."""
        counts = self.census.every.double()
        if float(counts[0]) > self.visible * self.census.size:
            counts[0] = 0.0
        return counts

    @cached_property
    def tail(self) -> float:
        """The width of the lognormal, by bisection: at one visible share, wider means more energy."""
        if not self.energy * self.census.size > HEAVIER * self._total(0.0):
            return 0.0
        low, high = 0.0, WIDEST
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self._total(middle) < self.energy * self.census.size else (low, middle)
        return 0.5 * (low + high)

    @cached_property
    def deviation(self) -> float:
        """The median standard deviation of the steps."""
        return self._deviation(self.tail)

    @cached_property
    def rates(self) -> Rates:
        """By binade, the probability that a weight changes visibly."""
        return self._mixed(lambda deviation: self._shown(HALF_UNITS / deviation), self.tail, self.deviation)

    @cached_property
    def energies(self) -> Rates:
        """By binade, the mean square of the stored change."""
        return self._energies(self.tail, self.deviation)

    @cached_property
    def coherent_share(self) -> float:
        """Share of the stored update's energy that is in proportion to the update before rounding.

        Rounding makes D = c E + R of a step E, with c = E[D E] / E[E^2] and R uncorrelated with E (Bussgang
        1952). What differs in c between binades is as good as noise to any direction: the mean c counts.
        """
        number, total = float(self.counts.sum()), float((self.counts * self.energies).sum())
        if not total > 0:
            return 1.0
        passed = self._mixed(self._passed, self.tail, self.deviation)
        before = float(self._mixed(lambda deviation: torch.tensor(deviation**2), self.tail, self.deviation))
        return min(1.0, (float((self.counts * passed).sum()) / number) ** 2 / before * number / total)

    def share_among(self, chosen: Shaped[Tensor, "binades"]) -> float | None:
        """Of the visibly changed weights, the share among the chosen; None where none is expected to change."""
        total = float((self.counts * self.rates).sum())
        inside = torch.minimum(chosen.double(), self.counts)
        return float((inside * self.rates).sum()) / total if total > 0 else None

    def _deviation(self, tail: float) -> float:
        """Where the visible share is as wanted: it grows with the deviation, so ever finer grids enclose it."""
        there = self.counts > 0
        counts, half = self.counts[there], HALF_UNITS[there]
        wanted = min(self.visible * self.census.size, float(counts.sum()) * (1 - 1e-9))
        low, high = LEAST, MOST
        for _ in range(ROUNDS):
            grid = torch.linspace(low, high, POINTS, dtype=torch.float64)
            units = half / grid.exp2()[:, None]
            seen = self._mixed(lambda scale, units=units: self._shown(units / scale) @ counts, tail)
            above = min(max(int((seen < wanted).sum()), 1), POINTS - 1)
            low, high = float(grid[above - 1]), float(grid[above])
        return math.exp2(0.5 * (low + high))

    def _total(self, tail: float) -> float:
        return float((self.counts * self._energies(tail, self._deviation(tail))).sum())

    def _energies(self, tail: float, deviation: float) -> Rates:
        units = _units(self.bits)
        if self.census.on_grid:
            return self._mixed(lambda scaled: _energy(units, scaled), tail, deviation)
        return self._mixed(lambda scaled: scaled**2 + units.square() / 12, tail, deviation)

    def _passed(self, deviation: float) -> Rates:
        """E[D E] by binade. Weights off the grid dither what is added to them: on the average all of it passes."""
        share = _passed(_units(self.bits), deviation) if self.census.on_grid else torch.ones_like(HALF_UNITS)
        return share * deviation**2

    def _mixed(self, at: Callable[[float], Values], tail: float, deviation: float = 1.0) -> Values:
        """The mean over the lognormal of what one deviation gives."""
        if tail == 0.0:
            return at(deviation)
        nodes = zip(NODES, WEIGHTS, strict=True)
        return sum(
            (weight * at(deviation * math.exp(tail * node)) for node, weight in nodes), torch.zeros(())
        ).double()

    def _shown(self, half: Values) -> Values:
        """The probability of a visible change where half a unit is so many deviations."""
        if self.census.on_grid:
            return torch.erfc(half / math.sqrt(2))
        # A weight anywhere between two bf16 numbers: the mean over where it lies, in closed form.
        x = 2 * half
        inside = x * _tail(x) + _density(torch.zeros_like(x)) - _density(x)
        return torch.where(half > 1e-6, inside / half.clamp_min(1e-300), torch.ones_like(half)).clamp(max=1.0)


def _units(bits: int) -> Rates:
    """By binade, the unit in the last place of a type of so many bits of precision."""
    return HALF_UNITS * 2.0 ** (9 - bits)


def _tail(x: Values) -> Values:
    return 0.5 * torch.erfc(x / math.sqrt(2))


def _density(x: Values) -> Values:
    return torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)


def _edges(units: Rates, deviation: float) -> tuple[Rates, Float64[Tensor, "terms binades"]]:
    """The unit in deviations, and where rounding goes up by one more unit: (j - 1/2) units, in deviations."""
    unit = (units / deviation).clamp(min=FINE)
    return unit, (torch.arange(1, TERMS + 1, dtype=torch.float64)[:, None] - 0.5) * unit


def _energy(units: Rates, deviation: float) -> Rates:
    """E[round(E)^2] = unit^2 sum_j (2 j - 1) 2 P(E > (j - 1/2) unit), for E Gaussian."""
    unit, edges = _edges(units, deviation)
    odd = 2 * torch.arange(1, TERMS + 1, dtype=torch.float64)[:, None] - 1
    coarse = unit.square() * (odd * 2 * _tail(edges)).sum(0)
    fine = 1 + (units / deviation).square() / 12
    return deviation**2 * torch.where(units > FINE * deviation, coarse, fine)


def _passed(units: Rates, deviation: float) -> Rates:
    """E[round(E) E] / E[E^2] = unit sum_j 2 density((j - 1/2) unit), by Stein's identity."""
    unit, edges = _edges(units, deviation)
    coarse = unit * (2 * _density(edges)).sum(0)
    return torch.where(units > FINE * deviation, coarse, torch.ones_like(unit))
