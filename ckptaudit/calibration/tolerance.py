"""How far a few trusted runs vouch for the next one: one-sided tolerance limits with a stated confidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist, fmean, stdev

POINTS = 4000
"""Steps of the integral below; by Simpson's rule the factor is right to seven digits and more."""

STANDARD = NormalDist()


def confidence_of_largest(runs: int, coverage: float) -> float:
    """How sure one may be that the largest of so many runs covers this share of all: 1 - coverage^runs.

    Free of any assumption about the distribution (Wilks 1941).
    """
    return 1.0 - coverage**runs


def upper_tolerance(values: Sequence[float], *, coverage: float, confidence: float) -> float | None:
    """What this share of a normal population stays below, with this confidence; None for fewer than two values.

    mean + k stdev, k = tolerance_factor(n). Where there are runs enough for the largest alone to be that
    sure, the largest is taken and normality is not assumed.
    """
    if confidence_of_largest(len(values), coverage) >= confidence:
        return max(values)
    if len(values) < 2:
        return None
    factor = tolerance_factor(len(values), coverage=coverage, confidence=confidence)
    return fmean(values) + factor * stdev(values)


@cache
def tolerance_factor(runs: int, *, coverage: float, confidence: float) -> float:
    """K such that mean + k stdev of a normal sample covers the share with the confidence.

    k = t / sqrt(n), t the confidence quantile of the noncentral t distribution with n - 1 degrees of
    freedom and noncentrality z sqrt(n), z the coverage quantile of the normal (Natrella 1963). Equals
    `scipy.stats.nct.ppf(confidence, n - 1, z * sqrt(n)) / sqrt(n)`.
    """
    z = STANDARD.inv_cdf(coverage)
    low, high = z, z + 1.0
    while _share_below(high, runs, z) < confidence:
        low, high = high, 2.0 * high
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _share_below(middle, runs, z) < confidence else (low, middle)
    return 0.5 * (low + high)


def _share_below(k: float, runs: int, z: float) -> float:
    """P(mean + k stdev >= z): over the stdev's chi distribution, the mean's normal."""
    freedom = runs - 1
    spread = math.sqrt(freedom)
    top = spread + 9.0
    width = top / POINTS
    log_scale = (1.0 - freedom / 2.0) * math.log(2.0) - math.lgamma(freedom / 2.0)

    def density(chi: float) -> float:
        if chi == 0.0:
            return math.exp(log_scale) if freedom == 1 else 0.0
        return math.exp(log_scale + (freedom - 1) * math.log(chi) - 0.5 * chi * chi)

    def value(chi: float) -> float:
        return density(chi) * STANDARD.cdf(math.sqrt(runs) * (k * chi / spread - z))

    inner = sum((4.0 if i % 2 else 2.0) * value(i * width) for i in range(1, POINTS))
    return (value(0.0) + inner + value(top)) * width / 3.0
