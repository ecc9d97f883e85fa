"""Tolerance limits against SciPy's noncentral t, and against sampling."""

from __future__ import annotations

import math
from random import Random

import pytest
from scipy.stats import nct, norm

from ckptaudit.calibration.tolerance import confidence_of_largest, tolerance_factor, upper_tolerance


@pytest.mark.parametrize(("runs", "coverage", "confidence"), [(2, 0.9, 0.95), (3, 0.99, 0.9), (12, 0.5, 0.99)])
def test_factor_is_that_of_the_noncentral_t(runs: int, coverage: float, confidence: float) -> None:
    root = math.sqrt(runs)
    expected = nct.ppf(confidence, runs - 1, norm.ppf(coverage) * root) / root
    assert tolerance_factor(runs, coverage=coverage, confidence=confidence) == pytest.approx(expected, rel=1e-6)


def test_the_limit_covers_as_often_as_it_says() -> None:
    random, trials = Random(0), 2000
    wanted = norm.ppf(0.9)
    samples = ([random.gauss(0, 1) for _ in range(4)] for _ in range(trials))
    covered = sum((upper_tolerance(s, coverage=0.9, confidence=0.95) or 0) >= wanted for s in samples)
    # Four deviations of a binomial of 2,000 trials.
    assert covered / trials == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / trials))


def test_one_value_supports_nothing_and_many_need_no_normality() -> None:
    assert upper_tolerance([1.0], coverage=0.9, confidence=0.95) is None
    assert confidence_of_largest(29, 0.9) >= 0.95 > confidence_of_largest(28, 0.9)
    assert upper_tolerance([1.0] * 28 + [9.0], coverage=0.9, confidence=0.95) == 9.0
