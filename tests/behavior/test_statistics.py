"""Intervals against SciPy's and closed forms, and how often they hold the truth in simulated draws."""

from __future__ import annotations

from math import inf, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ckptaudit.behavior import statistics
from ckptaudit.behavior.decisions import decide
from ckptaudit.behavior.statistics import Estimate, mcnemar, mean, paired_shares, ratio, share, wilson


@pytest.mark.parametrize(("successes", "count"), [(0, 7), (3, 10), (48, 50), (100, 100)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_is_scipys(successes: int, count: int, level: float) -> None:
    found = wilson(successes, count, level)
    theirs = stats.binomtest(successes, count).proportion_ci(level, method="wilson")
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert found.value == successes / count


def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs() -> None:
    # Two-sided by hand: 2 (1 + 9 + 36) / 2^9.
    assert mcnemar(2, 7) == mcnemar(7, 2) == pytest.approx(92 / 512)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(0, 10) == pytest.approx(2 / 2**10)


def test_shares_of_equal_weights_are_those_without() -> None:
    values = np.array([1.0, 0, 1, 1, 0])
    heavy, plain = share(values, np.full(5, 3.0)), share(values)
    assert (heavy.low, heavy.high) == pytest.approx((plain.low, plain.high))
    assert (plain.low, plain.high, plain.probes) == (wilson(3, 5).low, wilson(3, 5).high, 5)


def test_a_probe_without_weight_says_nothing() -> None:
    values, weights = np.array([1.0, 0, 1, 1, 0, 1]), np.array([1.0, 1, 1, 1, 1, 1e-9])
    assert share(values, weights).low == pytest.approx(share(values[:5]).low, abs=1e-6)
    spread = np.array([0.5, 1.5, 2.5, 0.1, 3.0, 99.0])
    assert mean(spread, weights).value == pytest.approx(spread[:5].mean(), abs=1e-6)


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 40))
def test_the_paired_interval_holds_zero_where_mcnemars_statistic_is_small(
    lost: int, gained: int, agreed: int
) -> None:
    count = lost + gained + agreed
    if not 0 < lost + gained < count:
        return
    base = np.repeat([1.0, 0.0, 1.0], [lost, gained, agreed])
    tuned = np.repeat([0.0, 1.0, 1.0], [lost, gained, agreed])
    found = paired_shares(base, tuned)
    z = abs(gained - lost) / sqrt(gained + lost)
    assert (found.lost, found.gained) == (lost, gained)
    assert found.difference.value == pytest.approx((gained - lost) / count, abs=1e-12)
    if abs(z - 1.959964) > 1e-4:
        assert (found.difference.low <= 0 <= found.difference.high) is (z < 1.959964)
    assert -1 <= found.difference.low <= found.difference.value <= found.difference.high <= 1


def test_exchanging_the_models_turns_the_difference_round() -> None:
    base, tuned = np.repeat([1.0, 0.0, 1.0], [6, 2, 30]), np.repeat([0.0, 1.0, 1.0], [6, 2, 30])
    one, other = paired_shares(base, tuned).difference, paired_shares(tuned, base).difference
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-8)


def test_without_a_discordant_pair_the_difference_is_still_uncertain() -> None:
    same = paired_shares(np.ones(50), np.ones(50)).difference
    assert same.value == 0
    # Tango's interval is then +-z^2 / (n + z^2).
    edge = 1.959964**2 / (50 + 1.959964**2)
    assert (same.low, same.high) == pytest.approx((-edge, edge), abs=1e-6)


def coverage(draw: object, truth: float, runs: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    found = [draw(rng) for _ in range(runs)]  # type: ignore[operator]
    return float(np.mean([one.low <= truth <= one.high for one in found]))


def test_the_paired_interval_covers_as_often_as_it_says() -> None:
    def draw(rng: np.random.Generator) -> Estimate:
        kind = rng.choice(4, 60, p=[0.7, 0.1, 0.04, 0.16])
        base, tuned = (np.isin(kind, right).astype(np.float64) for right in ((0, 1), (0, 2)))
        return paired_shares(base, tuned).difference

    assert 0.93 < coverage(draw, 0.04 - 0.1, 1_500, 1) < 0.985


@pytest.mark.parametrize("count", [16, 60])
def test_a_ratio_covers_as_often_as_it_says(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "DRAWS", 600)

    def draw(rng: np.random.Generator) -> Estimate:
        tokens = rng.integers(4, 20, count).astype(float)
        rates = rng.lognormal(0.0, 0.8, count)
        return ratio(rates * tokens, tokens, seed=int(rng.integers(2**31)))

    # Skewed, as divergences are; the plain percentile interval holds the truth in about 0.88 of the cases of 16.
    assert 0.92 < coverage(draw, float(np.exp(0.32)), 800, count) < 0.985


def test_samples_of_one_probe_count_as_one() -> None:
    rng = np.random.default_rng(0)
    by_probe = rng.random(25)
    repeated = mean(by_probe)
    pooled = mean(np.repeat(by_probe, 8))
    assert pooled.high - pooled.low < 0.5 * (repeated.high - repeated.low)
    assert share(by_probe).method == "bootstrap"


def test_the_bootstrap_agrees_with_scipys_on_many_values() -> None:
    values = np.random.default_rng(3).gamma(2.0, 1.0, 400)
    ours = mean(values)
    theirs = stats.bootstrap((values,), np.mean, method="BCa", rng=np.random.default_rng(0)).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.1 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.1 * width)
    assert mean(values) == ours


def test_many_probes_take_students_interval_and_little_time() -> None:
    values = np.random.default_rng(0).normal(size=200_000)
    found = mean(values)
    theirs = stats.ttest_1samp(values, 0).confidence_interval()
    assert found.method == "Student"
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_memory_is_bounded_by_chunks_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random(50)
    once = mean(values)
    monkeypatch.setattr(statistics, "CHUNK", 50 * 7)
    again = mean(values)
    assert (again.low, again.high) == pytest.approx((once.low, once.high))


def test_one_probe_tells_no_spread_and_equal_ones_have_none() -> None:
    assert (mean(np.array([3.0])).low, mean(np.array([3.0])).high) == (-inf, inf)
    same = mean(np.full(9, 3.0))
    assert (same.low, same.high) == (3.0, 3.0)


def estimate(low: float, high: float, probes: int = 100) -> Estimate:
    return Estimate((low + high) / 2, low, high, probes, "test")


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(0.3, 0.5, "broken"), (0.0, 0.2, "holds"), (0.1, 0.4, "cannot tell"), (0.19, 0.24, "holds")],
)
def test_only_an_interval_past_the_limit_breaks_it(low: float, high: float, outcome: str) -> None:
    assert decide(estimate(low, high), at_most=0.2, tolerance=0.05).outcome == outcome
    assert decide(estimate(-high, -low), at_least=-0.2, tolerance=0.05).outcome == outcome


def test_the_probes_that_would_do_are_counted() -> None:
    # The width of 0.2 must come down to 0.1: four times as many.
    far = decide(estimate(0.1, 0.3), at_most=0.2, tolerance=0.1)
    assert far.more == 300
    assert "300 more probes would do" in far.sentence
    # The half width of 0.1 need only come down to the distance of 0.08 from the limit.
    assert decide(estimate(0.02, 0.22), at_most=0.2).more == 57
    assert decide(estimate(0.02, 0.22), at_most=0.2, tolerance=0.01).more == 39_900
    assert decide(estimate(0.1, 0.3), at_most=0.2).more is None
    assert decide(Estimate(0.1, -inf, inf, 1, "none"), at_most=0.2, tolerance=0.1).more is None
    assert decide(estimate(0.1, 0.3), at_most=1.0).sentence == ""
    with pytest.raises(ValueError, match="limit"):
        decide(estimate(0, 1))


def test_with_the_probes_that_would_do_it_is_told() -> None:
    rng = np.random.default_rng(0)
    population = rng.gamma(2.0, 0.1, 100_000)
    first = decide(mean(population[:20]), at_most=0.21, tolerance=0.02)
    assert first.outcome == "cannot tell"
    assert first.more is not None
    then = decide(mean(population[1_000 : 1_020 + 2 * first.more]), at_most=0.21, tolerance=0.02)
    assert then.outcome != "cannot tell"
