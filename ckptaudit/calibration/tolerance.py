"""How far a few trusted runs vouch for the next one: one-sided tolerance limits with a stated confidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist, fmean, stdev

import numpy as np
from scipy.stats import nct

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
    freedom and noncentrality z sqrt(n), z the coverage quantile of the normal (Natrella 1963).
    """
    root = math.sqrt(runs)
    # SciPy 1.13 warns of a division by zero where there is one degree of freedom; its quantile is right.
    with np.errstate(divide="ignore"):
        return float(nct.ppf(confidence, runs - 1, STANDARD.inv_cdf(coverage) * root)) / root
