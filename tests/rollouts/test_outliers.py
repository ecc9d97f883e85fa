"""Means that one token makes, and steps with few tokens: what an interval may say of either."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptaudit.rollouts.quantities import metrics
from ckptaudit.rollouts.readings import MARKOV, Reading, lower_end
from tests.rollouts.judged import broken_checks, readings
from tests.rollouts.simulated import run_rows, table_of


def with_one_ratio(log_ratio: float, steps: int = 4) -> pa.Table:
    """A healthy run in which one token of each step is that much likelier for the trainer."""
    rows = run_rows(steps=steps)
    for start in range(0, len(rows), len(rows) // steps):
        engine, trainer = rows[start]["logp_rollout"], rows[start]["logp_train"]
        engine[3] = trainer[3] - log_ratio
    return table_of(rows)


def at(found: list[Reading], subject: str) -> Reading:
    (reading,) = [r for r in found if r.subject == subject]
    return reading


@pytest.mark.parametrize("log_ratio", [10.0, 30.0])
def test_one_token_that_is_most_of_the_mismatch_breaks_it(log_ratio: float) -> None:
    broken = broken_checks(with_one_ratio(log_ratio))
    assert {"mismatch-k3", "mismatch-k3-mean", "mismatch-k3-median", "mismatch-multiplicative"} <= broken


def test_a_token_that_is_a_little_out_does_not() -> None:
    assert "mismatch-k3" not in broken_checks(with_one_ratio(3.0))


@pytest.mark.parametrize("metric", ["mismatch_k3", "mismatch_abs", "mismatch_mult", "probability_difference"])
def test_no_interval_reaches_below_what_a_term_can_be(metric: str) -> None:
    for reading in readings(with_one_ratio(12.0), metric):
        assert reading.low is not None
        assert reading.low >= metrics()[metric].smallest


@given(st.integers(0, 10_000), st.sampled_from([2, 5, 30, 200]), st.floats(1e-4, 0.5), st.floats(1, 1e6))
@settings(max_examples=60, deadline=None)
def test_the_lower_end_is_seldom_above_the_true_mean(seed: int, count: int, chance: float, size: float) -> None:
    """Terms that are rarely far out: the normal end is above the mean as often as it likes, Markov's is not."""
    rng, metric = np.random.default_rng(seed), metrics()["mismatch_k3"]
    hits = rng.binomial(count, chance, 2_000)
    # Markov's part alone, as with an infinite standard error.
    above = [lower_end(metric, hit * size / count, math.inf) > chance * size for hit in hits]
    assert np.mean(above) <= MARKOV + 3 * math.sqrt(MARKOV / 2_000)


def test_steps_with_few_tokens_are_taken_together() -> None:
    """Sixteen answers of eight tokens are no estimate; sixteen steps of them are."""
    rows = run_rows(steps=40, groups=2, length=8)
    found = readings(table_of(rows), "mismatch_k3", "mismatch_k3_mean")
    judged = [r for r in found if r.value is not None and r.subject != "run"]
    assert judged
    assert all(r.samples >= 2_000 for r in judged)
    assert all("steps before, of few tokens" in r.remark for r in judged)
    first = judged[0]
    last = int(first.subject.removeprefix("step "))
    taken = [np.subtract(row["logp_train"], row["logp_rollout"]) for row in rows if row["step"] <= last]
    differences = np.concatenate(taken).astype(np.float64)
    assert first.samples == len(differences)
    assert first.value == pytest.approx(np.mean(np.expm1(differences) - differences), rel=1e-5)
    assert at(found, "run").value == pytest.approx(np.mean([r.value for r in judged]))


def test_a_step_of_its_own_says_nothing_of_those_before(healthy: pa.Table) -> None:
    assert all(r.remark == "" for r in readings(healthy, "mismatch_k3"))


def test_small_steps_whose_sides_are_identical_dilute_no_other() -> None:
    rows = run_rows(steps=2, groups=2, length=8) + [
        {**row, "step": row["step"] + 2} for row in run_rows(steps=1, seed=7)
    ]
    for row in rows:
        if row["step"] < 2:
            row["logp_train"] = list(row["logp_rollout"])
    alone = [row for row in rows if row["step"] == 2]
    together, by_itself = (at(readings(table_of(some), "mismatch_k3"), "step 2") for some in (rows, alone))
    assert (together.samples, together.remark) == (by_itself.samples, "")
    assert together.value == pytest.approx(by_itself.value, rel=1e-12)
