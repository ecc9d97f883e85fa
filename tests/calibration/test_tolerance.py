"""Tolerance limits against printed tables, against their definition as an integral, and against sampling."""

from __future__ import annotations

import math
from random import Random

import pytest
from scipy.integrate import quad
from scipy.stats import chi, norm

from ckptaudit.calibration.tolerance import confidence_of_largest, tolerance_factor, upper_tolerance


@pytest.mark.parametrize(
    ("runs", "coverage", "confidence", "expected"),
    [
        (2, 0.90, 0.95, 20.581),
        (3, 0.90, 0.95, 6.155),
        (5, 0.90, 0.95, 3.407),
        (10, 0.90, 0.95, 2.355),
        (30, 0.90, 0.95, 1.777),
        (3, 0.95, 0.95, 7.656),
        (10, 0.95, 0.95, 2.911),
        (5, 0.99, 0.95, 5.741),
        (50, 0.99, 0.95, 2.862),
        (5, 0.90, 0.99, 5.362),
    ],
)
def test_factors_are_those_of_the_printed_tables(
    runs: int, coverage: float, confidence: float, expected: float
) -> None:
    """Natrella, Experimental Statistics (1963), table A-7."""
    assert tolerance_factor(runs, coverage=coverage, confidence=confidence) == pytest.approx(expected, abs=6e-4)


def share_below(k: float, runs: int, coverage: float) -> float:
    """P(mean + k stdev >= z), from its definition: over the chi distribution of the stdev, the mean's normal."""

    def inner(stdev: float) -> float:
        return float(norm.cdf(math.sqrt(runs) * (k * stdev - norm.ppf(coverage))))

    scale = math.sqrt(runs - 1)
    return float(quad(lambda s: scale * chi.pdf(s * scale, runs - 1) * inner(s), 0, math.inf, epsabs=1e-12)[0])


@pytest.mark.parametrize("runs", [2, 3, 5, 12, 28])
@pytest.mark.parametrize(("coverage", "confidence"), [(0.9, 0.95), (0.99, 0.9), (0.5, 0.99)])
def test_a_factor_covers_with_the_confidence_it_was_asked_for(
    runs: int, coverage: float, confidence: float
) -> None:
    factor = tolerance_factor(runs, coverage=coverage, confidence=confidence)
    assert share_below(factor, runs, coverage) == pytest.approx(confidence, abs=1e-8)


def test_factors_grow_with_what_is_asked_and_fall_with_the_runs() -> None:
    factors = [tolerance_factor(n, coverage=0.9, confidence=0.95) for n in (2, 3, 5, 20, 100)]
    assert factors == sorted(factors, reverse=True)
    assert tolerance_factor(5, coverage=0.99, confidence=0.95) > factors[2]
    assert tolerance_factor(5, coverage=0.9, confidence=0.99) > factors[2]


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
