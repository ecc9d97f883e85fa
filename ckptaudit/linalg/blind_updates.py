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

import numpy as np
import torch
from jaxtyping import Bool, Float64, Shaped
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor

from ckptaudit.linalg.census import BIAS, BINADES, Census, Rates

HALF_UNITS = np.exp2(np.maximum(np.arange(BINADES, dtype=np.float64), 1) - BIAS - 8)
"""By binade, half a bf16 unit in the last place."""

LEAST, MOST = -160.0, 130.0
"""Exponents between which a deviation is sought: from less than the least number to more than the largest."""

GRID = np.linspace(LEAST, MOST, 64)
GRID_POWERS = np.exp2(GRID)
"""Exponents among which the deviation without a tail is first looked for, and their powers of two."""

ROUNDS, NEAR = 60, 1e-9
"""How often a root is drawn nearer at most, and how near in exponents or log-odds is enough."""

HEAVIER = 1.05
"""Share of a Gaussian step's energy past which the update's tails count as heavier."""

WIDEST, STEPS, CLOSE = 2.0, 12, 5e-3
"""How wide tails may be, in how many steps their width is sought, and how close the energy has to come."""

NODES, WEIGHTS = hermegauss(7)
"""Gauss-Hermite nodes and weights of the logarithm of the deviation."""

SHARES = WEIGHTS / math.sqrt(2 * math.pi)
"""The weights as shares of one."""

FINE_BITS = 24
"""From this precision, that of float32, on steps that bf16 shows are not rounded to speak of."""

TERMS, FINE = 8, 1.0
"""Below this unit, in deviations, rounding is an independent uniform error but for exp(-2 pi^2) of it; above, the
terms reach seven deviations."""

PLACES = np.arange(1, TERMS + 1, dtype=np.float64)[:, None, None]
"""Which of the terms each is, along an axis of their own."""

Values = Float64[np.ndarray, "..."]
"""NumPy's: the arrays are of a few binades, and what a call costs is all that counts."""


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
            return torch.from_numpy(_mean(np.square(self._scales))).expand(BINADES)
        return self._everywhere(self._energies(self._scales))

    @cached_property
    def coherent_share(self) -> float:
        """Share of the stored update's energy that is in proportion to the update before rounding.

        Rounding makes D = c E + R of a step E, with c = E[D E] / E[E^2] and R uncorrelated with E (Bussgang
        1952). What differs in c between binades is as good as noise to any direction: the mean c counts.
        """
        if not self.is_rounded:
            return 1.0
        squares = np.square(self._scales)
        total = float(self._counted @ _mean(self._energies(self._scales)))
        if not total > 0:
            return 1.0
        passed = float(self._counted @ _mean(self._passed(self._scales) * squares))
        return min(1.0, passed**2 / self._total / float(_mean(squares)[0]) / total)

    def share_among(self, chosen: Shaped[Tensor, "binades"]) -> float | None:
        """Of the visibly changed weights, the share among the chosen; None where none is expected to change."""
        total = float((self.counts * self.rates).sum())
        inside = torch.minimum(chosen.double(), self.counts)
        return float((inside * self.rates).sum()) / total if total > 0 else None

    @cached_property
    def _there(self) -> Bool[np.ndarray, "binades"]:
        return self.counts.numpy() > 0

    @cached_property
    def _counted(self) -> Float64[np.ndarray, "b"]:
        counted: Values = self.counts.numpy()[self._there]
        return counted

    @cached_property
    def _total(self) -> float:
        return float(self._counted.sum())

    @cached_property
    def _half(self) -> Float64[np.ndarray, "b"]:
        half: Values = HALF_UNITS[self._there]
        return half

    @cached_property
    def _scales(self) -> Float64[np.ndarray, "nodes 1"]:
        scales: Values = self.deviation * _spread(self.tail)
        return scales

    def _everywhere(self, mixed: Float64[np.ndarray, "nodes b"]) -> Rates:
        found = np.zeros(BINADES)
        found[self._there] = _mean(mixed)
        return torch.from_numpy(found)

    @cached_property
    def _gaussian(self) -> float:
        """The deviation of steps without a tail."""
        shown = self._shown(self._half / GRID_POWERS[:, None]) @ self._counted
        above = min(max(int(np.count_nonzero(shown < self._wanted)), 1), len(GRID) - 1)
        return self._enclosed(_spread(0.0), float(GRID[above - 1]), float(GRID[above]))

    def _deviation(self, tail: float) -> float:
        """The median deviation with such a tail: within a few widths of that without."""
        if not tail:
            return self._gaussian
        most = math.log2(self._gaussian)
        return self._enclosed(_spread(tail), most - 1 - 6 * tail, most + 1 + 6 * tail)

    @cached_property
    def _wanted(self) -> float:
        """How many of the weights that may change are to change visibly."""
        return min(self.visible * self.census.size, self._total * (1 - 1e-9))

    def _enclosed(self, spread: Float64[np.ndarray, "nodes 1"], low: float, high: float) -> float:
        """Where the visible share is as wanted, between two exponents: it grows with the deviation.

        Regula falsi with Illinois' weights (Dowell and Jarratt 1971) on the log-odds, which are nearly straight.
        """
        total, wanted = self._total, _log_odds(self._wanted, self._total)
        half, counted = (self._half / spread).ravel(), (_shares(len(spread))[:, None] * self._counted).ravel()

        def beyond(exponent: float) -> float:
            return _log_odds(float(self._shown(half * 2.0**-exponent) @ counted), total) - wanted

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

    def _energies(self, scales: Float64[np.ndarray, "nodes 1"]) -> Float64[np.ndarray, "nodes b"]:
        """E[round(E)^2] = unit^2 sum_j (2 j - 1) 2 P(E > (j - 1/2) unit), for E Gaussian."""
        unit, edges = self._edges(scales)
        squares, squared = np.square(scales), np.square(unit)
        fine: Values = squares * (1 + squared / 12)
        if not self.census.on_grid:
            return fine
        coarse: Values = squares * squared * ((4 * PLACES - 2) * _tail(edges)).sum(0)
        return np.where(unit > FINE, coarse, fine)

    def _passed(self, scales: Float64[np.ndarray, "nodes 1"]) -> Float64[np.ndarray, "nodes b"]:
        """E[round(E) E] / E[E^2] = unit sum_j 2 density((j - 1/2) unit), by Stein's identity.

        Weights off the grid dither what is added to them: on the average all of it passes.
        """
        unit, edges = self._edges(scales)
        coarse = unit * (2 * _density(edges)).sum(0)
        return np.where((unit > FINE) & self.census.on_grid, coarse, 1.0)

    def _edges(
        self, scales: Float64[np.ndarray, "nodes 1"]
    ) -> tuple[Float64[np.ndarray, "nodes b"], Float64[np.ndarray, "terms nodes b"]]:
        """The unit in deviations, and where rounding goes up by one more: (j - 1/2) units, in deviations."""
        unit = self._half * 2.0 ** (9 - self.bits) / scales
        return unit, (PLACES - 0.5) * unit

    def _shown(self, half: Values) -> Values:
        """The probability of a visible change where half a unit is so many deviations."""
        if self.census.on_grid:
            return 2 * _tail(half)
        # A weight anywhere between two bf16 numbers: the mean over where it lies, in closed form.
        x = 2 * half
        inside = x * _tail(x) + _density(np.zeros(1)) - _density(x)
        return np.where(half > 1e-6, np.minimum(inside / np.maximum(half, 1e-300), 1.0), 1.0)


def _log_odds(count: float, total: float) -> float:
    return math.log(max(count, 1e-300)) - math.log(max(total - count, 1e-15 * total, 1e-300))


def _spread(tail: float) -> Float64[np.ndarray, "nodes 1"]:
    """The deviations of the mixture against their median: a single one where there is no tail."""
    return np.exp(tail * NODES)[:, None] if tail else np.ones((1, 1))


def _mean(mixed: Values) -> Values:
    """The mean over the mixture, the first axis."""
    mean: Values = mixed[0] if len(mixed) == 1 else SHARES @ mixed
    return mean


def _shares(count: int) -> Float64[np.ndarray, "nodes"]:
    """How much each of the mixture's parts counts: all of it where there is one."""
    return SHARES if count > 1 else np.ones(1)


def _tail(x: Values) -> Values:
    """P(Gaussian > x). NumPy has no error function, and SciPy takes longer to import than all of this takes."""
    return 0.5 * torch.erfc(torch.from_numpy(x * math.sqrt(0.5))).numpy()


def _density(x: Values) -> Values:
    density: Values = np.exp(-0.5 * np.square(x)) / math.sqrt(2 * math.pi)
    return density
