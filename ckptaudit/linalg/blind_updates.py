"""The null model behind the excesses: an update that is blind to the weights, once it is stored.

A blind update adds an independent Gaussian of one standard deviation to every weight, and the result is rounded
to the stored type. The deviation is the one that changes as many entries visibly as the update in question does,
and its tails are no lighter than the update's norm asks for.
All follows from how many weights lie in each binade [2^e, 2^(e+1)): throughout one the unit in the last place is
the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float64, Shaped
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor

from ckptaudit.linalg.census import BIAS, BINADES, Census, Rates

HALF_UNITS = torch.exp2(torch.arange(BINADES, dtype=torch.float64).clamp(min=1) - BIAS - 8)
"""By binade, half a bf16 unit in the last place."""

LEAST, MOST = -160.0, 130.0
"""Exponents between which a deviation is sought: from less than the least number to more than the largest."""

GRID = 64
"""Points among which the deviation without a tail is first looked for."""

ROUNDS, NEAR = 60, 1e-9
"""How often a root is drawn nearer at most, and how near in exponents or log-odds is enough."""

HEAVIER = 1.05
"""Share of a Gaussian step's energy past which the update's tails count as heavier."""

WIDEST, STEPS, CLOSE = 2.0, 12, 5e-3
"""How wide tails may be, in how many steps their width is sought, and how close the energy has to come."""

NODES, WEIGHTS = (torch.from_numpy(part) for part in hermegauss(7))
"""Gauss-Hermite nodes and weights of the logarithm of the deviation."""

SHARES = WEIGHTS / math.sqrt(2 * math.pi)
"""The weights as shares of one."""

FINE_BITS = 24
"""From this precision, that of float32, on steps that bf16 shows are not rounded to speak of."""

TERMS, FINE = 8, 1.0
"""Below this unit, in deviations, rounding is an independent uniform error but for exp(-2 pi^2) of it; above, the
terms reach seven deviations."""

Values = Float64[Tensor, "..."]


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
        """The width of the lognormal: at one visible share, the logarithm of the energy grows as its square."""
        wanted = self.energy * self.census.size
        first = self._lacking(0.0, wanted)
        if not (wanted > 0 and first > math.log(HEAVIER)):
            return 0.0
        tail, low, high = math.sqrt(first), 0.0, WIDEST
        for _ in range(STEPS):
            tail = tail if low < tail < high else 0.5 * (low + high)
            lacking = self._lacking(tail, wanted)
            if abs(lacking) < CLOSE:
                break
            low, high = (tail, high) if lacking > 0 else (low, tail)
            tail *= math.sqrt(first / max(first - lacking, 1e-3 * first))
        return min(tail, WIDEST)

    @cached_property
    def deviation(self) -> float:
        """The median standard deviation of the steps."""
        return self._deviation(self.tail)

    @cached_property
    def rates(self) -> Rates:
        """By binade, the probability that a weight changes visibly."""
        return self._everywhere(self._shown(self._half / self._scales))

    @property
    def is_rounded(self) -> bool:
        """Whether rounding shapes the stored change: not where bf16 sees none of it or the type is far finer."""
        return self.visible > 0 and self.bits < FINE_BITS

    @cached_property
    def energies(self) -> Rates:
        """By binade, the mean square of the stored change."""
        if not self.is_rounded:
            return _mean(self._scales.square()).expand(BINADES)
        return self._everywhere(self._energies(self._scales))

    @cached_property
    def coherent_share(self) -> float:
        """Share of the stored update's energy that is in proportion to the update before rounding.

        Rounding makes D = c E + R of a step E, with c = E[D E] / E[E^2] and R uncorrelated with E (Bussgang
        1952). What differs in c between binades is as good as noise to any direction: the mean c counts.
        """
        if not self.is_rounded:
            return 1.0
        squares = self._scales.square()
        total = float(self._counted @ _mean(self._energies(self._scales)))
        if not total > 0:
            return 1.0
        passed = float(self._counted @ _mean(self._passed(self._scales) * squares))
        return min(1.0, passed**2 / float(self._counted.sum()) / float(_mean(squares)) / total)

    def share_among(self, chosen: Shaped[Tensor, "binades"]) -> float | None:
        """Of the visibly changed weights, the share among the chosen; None where none is expected to change."""
        total = float((self.counts * self.rates).sum())
        inside = torch.minimum(chosen.double(), self.counts)
        return float((inside * self.rates).sum()) / total if total > 0 else None

    @cached_property
    def _there(self) -> Bool[Tensor, "binades"]:
        return self.counts > 0

    @cached_property
    def _counted(self) -> Float64[Tensor, "b"]:
        return self.counts[self._there]

    @cached_property
    def _half(self) -> Float64[Tensor, "b"]:
        return HALF_UNITS[self._there]

    @cached_property
    def _scales(self) -> Float64[Tensor, "nodes 1"]:
        return self.deviation * _spread(self.tail)

    def _everywhere(self, mixed: Float64[Tensor, "nodes b"]) -> Rates:
        found = torch.full((BINADES,), 0.0, dtype=torch.float64)
        found[self._there] = _mean(mixed)
        return found

    @cached_property
    def _gaussian(self) -> float:
        """The deviation of steps without a tail."""
        spread, grid = _spread(0.0), torch.linspace(LEAST, MOST, GRID, dtype=torch.float64)
        shown = self._shown(self._half / grid.exp2()[:, None]) @ self._counted
        above = min(max(int((shown < self._wanted).sum()), 1), GRID - 1)
        return self._enclosed(spread, float(grid[above - 1]), float(grid[above]))

    def _deviation(self, tail: float) -> float:
        """The median deviation with such a tail: within a few widths of that without."""
        if not tail:
            return self._gaussian
        most = math.log2(self._gaussian)
        return self._enclosed(_spread(tail), most - 1 - 6 * tail, most + 1 + 6 * tail)

    @cached_property
    def _wanted(self) -> float:
        """How many of the weights that may change are to change visibly."""
        return min(self.visible * self.census.size, float(self._counted.sum()) * (1 - 1e-9))

    def _enclosed(self, spread: Float64[Tensor, "nodes 1"], low: float, high: float) -> float:
        """Where the visible share is as wanted, between two exponents: it grows with the deviation.

        Regula falsi with Illinois' weights (Dowell and Jarratt 1971) on the log-odds, which are nearly straight.
        """
        total = float(self._counted.sum())
        wanted = _log_odds(self._wanted, total)
        half, counted = self._half / spread, (_shares(len(spread))[:, None] * self._counted).flatten()

        def beyond(exponent: float) -> float:
            shown = self._shown(half * 2.0**-exponent).flatten().dot(counted)
            return _log_odds(float(shown), total) - wanted

        below, above, at, side = beyond(low), beyond(high), 0.5 * (low + high), 0
        for _ in range(ROUNDS):
            at = high - above * (high - low) / (above - below) if below < 0 < above else 0.5 * (low + high)
            value = beyond(at)
            if abs(value) < NEAR or high - low < NEAR:
                break
            if value < 0:
                low, below, above = at, value, above * (0.5 if side < 0 else 1.0)
            else:
                high, above, below = at, value, below * (0.5 if side > 0 else 1.0)
            side = -1 if value < 0 else 1
        return math.exp2(at)

    def _lacking(self, tail: float, wanted: float) -> float:
        """The logarithm of the energy wanted over what steps with such tails have."""
        mean = _mean(self._energies(self._deviation(tail) * _spread(tail)))
        return math.log(max(max(wanted, 1e-300) / max(float(self._counted @ mean), 1e-300), 1e-300))

    def _energies(self, scales: Float64[Tensor, "nodes 1"]) -> Float64[Tensor, "nodes b"]:
        """E[round(E)^2] = unit^2 sum_j (2 j - 1) 2 P(E > (j - 1/2) unit), for E Gaussian."""
        unit, edges = self._edges(scales)
        fine = scales.square() * (1 + unit.square() / 12)
        if not self.census.on_grid:
            return fine
        odd = 2 * torch.arange(1, TERMS + 1, dtype=torch.float64)[:, None, None] - 1
        coarse = scales.square() * unit.square() * (odd * 2 * _tail(edges)).sum(0)
        return torch.where(unit > FINE, coarse, fine)

    def _passed(self, scales: Float64[Tensor, "nodes 1"]) -> Float64[Tensor, "nodes b"]:
        """E[round(E) E] / E[E^2] = unit sum_j 2 density((j - 1/2) unit), by Stein's identity.

        Weights off the grid dither what is added to them: on the average all of it passes.
        """
        unit, edges = self._edges(scales)
        coarse = unit * (2 * _density(edges)).sum(0)
        return torch.where((unit > FINE) & self.census.on_grid, coarse, torch.ones_like(unit))

    def _edges(
        self, scales: Float64[Tensor, "nodes 1"]
    ) -> tuple[Float64[Tensor, "nodes b"], Float64[Tensor, "terms nodes b"]]:
        """The unit in deviations, and where rounding goes up by one more: (j - 1/2) units, in deviations."""
        unit = self._half * 2.0 ** (9 - self.bits) / scales
        return unit, (torch.arange(1, TERMS + 1, dtype=torch.float64)[:, None, None] - 0.5) * unit

    def _shown(self, half: Values) -> Values:
        """The probability of a visible change where half a unit is so many deviations."""
        if self.census.on_grid:
            return torch.erfc(half / math.sqrt(2))
        # A weight anywhere between two bf16 numbers: the mean over where it lies, in closed form.
        x = 2 * half
        inside = x * _tail(x) + _density(torch.zeros_like(x)) - _density(x)
        return torch.where(half > 1e-6, inside / half.clamp_min(1e-300), torch.ones_like(half)).clamp(max=1.0)


def _log_odds(count: float, total: float) -> float:
    return math.log(max(count, 1e-300)) - math.log(max(total - count, 1e-15 * total, 1e-300))


def _spread(tail: float) -> Float64[Tensor, "nodes 1"]:
    """The deviations of the mixture against their median: a single one where there is no tail."""
    return (tail * NODES).exp()[:, None] if tail else torch.ones(1, 1, dtype=torch.float64)


def _mean(mixed: Values) -> Values:
    """The mean over the mixture, the first axis."""
    return mixed[0] if len(mixed) == 1 else _shares(len(mixed)) @ mixed


def _shares(count: int) -> Float64[Tensor, "nodes"]:
    """How much each of the mixture's parts counts: all of it where there is one."""
    return SHARES if count > 1 else torch.ones(1, dtype=torch.float64)


def _tail(x: Values) -> Values:
    return 0.5 * torch.erfc(x / math.sqrt(2))


def _density(x: Values) -> Values:
    return torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)
