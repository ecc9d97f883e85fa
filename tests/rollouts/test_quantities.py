"""Figures against plain NumPy written from the formulas, and Pareto's k against arviz."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.measure import measure
from ckptaudit.rollouts.moments import ClusteredMean
from ckptaudit.rollouts.pareto import pareto_k, tail_size
from tests.rollouts.judged import FACTS, readings
from tests.rollouts.simulated import Engine, rollouts_of, run_rows, table_of


def one(table: pa.Table, metric: str, subject: str = "step 3", facts: RunFacts = FACTS) -> float:
    (value,) = [r.value for r in readings(table, metric, facts=facts) if r.subject == subject]
    assert value is not None
    return value


def step_lists(table: pa.Table, column: str, step: int = 3) -> list[np.ndarray]:
    mine = table.filter(pa.compute.equal(table.column("step"), step))
    return [np.array(values, dtype=np.float64) for values in mine.column(column).to_pylist()]


@pytest.fixture(scope="module")
def ratios(healthy: pa.Table) -> list[np.ndarray]:
    return [
        a - b for a, b in zip(step_lists(healthy, "logp_train"), step_lists(healthy, "logp_rollout"), strict=True)
    ]


def test_token_means(healthy: pa.Table, ratios: list[np.ndarray]) -> None:
    flat = np.concatenate(ratios)
    engine, train = (np.concatenate(step_lists(healthy, c)) for c in ("logp_rollout", "logp_train"))
    reference = {
        "mismatch_k1": -flat.mean(),
        "mismatch_k3": (np.expm1(flat) - flat).mean(),
        "mismatch_abs": np.abs(flat).mean(),
        "mismatch_mult": np.exp(np.abs(flat)).mean(),
        "probability_difference": np.abs(np.exp(train) - np.exp(engine)).mean(),
        "probability_correlation": np.corrcoef(np.exp(train), np.exp(engine))[0, 1],
        "ratio_bias": abs(np.exp(flat).mean() - 1),
        "ratio_bias_first": abs(np.mean([np.exp(r[0]) for r in ratios]) - 1),
        "token_ess": np.exp(flat).mean() ** 2 / np.exp(2 * flat).mean(),
        "token_chi2": np.exp(2 * flat).mean() - 1,
        "tail_share": (np.abs(flat) > np.log(2)).mean(),
        "surprisal_gap": abs((-train - np.concatenate(step_lists(healthy, "entropy"))).mean()),
        "entropy_mean": np.concatenate(step_lists(healthy, "entropy")).mean(),
    }
    for metric, value in reference.items():
        assert one(healthy, metric) == pytest.approx(value, rel=1e-9, abs=1e-12), metric


def test_standard_errors_are_by_sequence(healthy: pa.Table, ratios: list[np.ndarray]) -> None:
    (reading,) = [r for r in readings(healthy, "mismatch_abs") if r.subject == "step 3"]
    sums, sizes = np.array([np.abs(r).sum() for r in ratios]), np.array([len(r) for r in ratios])
    mean = sums.sum() / sizes.sum()
    count = len(sums)
    error = np.sqrt(((sums - mean * sizes) ** 2).sum() * count / (count - 1)) / sizes.sum()
    assert reading.standard_error == pytest.approx(error, rel=1e-6)
    assert reading.samples == sizes.sum()


def test_clustered_error_covers_the_true_mean_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        sizes = rng.integers(5, 40, 60)
        level = rng.normal(0, 1, 60)  # tokens of a sequence share it, so errors by token would be far too small
        mean = ClusteredMean()
        mean.add(np.array([(level[i] + rng.normal(0, 1, n)).sum() for i, n in enumerate(sizes)]), sizes)
        hits += abs(mean.mean) < 2 * mean.standard_error
    assert 0.91 < hits / 400 < 0.98


def test_sequence_weights(healthy: pa.Table, ratios: list[np.ndarray]) -> None:
    weights = np.exp([r.sum() for r in ratios])
    assert one(healthy, "sequence_ess") == pytest.approx(weights.mean() ** 2 / (weights**2).mean())
    assert one(healthy, "sequence_chi2") == pytest.approx((weights**2).mean() - 1)
    rewards = np.array(_step(healthy, "reward"))
    assert one(healthy, "self_normalised_reward") == pytest.approx((weights @ rewards) / weights.sum())


def _step(table: pa.Table, column: str, step: int = 3) -> list[float]:
    return list(table.filter(pa.compute.equal(table.column("step"), step)).column(column).to_pylist())


def test_prefix_minimum_and_drift() -> None:
    from ckptaudit.damages.log_probabilities import low_early_tokens

    table = low_early_tokens(table_of(run_rows(steps=4, seed=3)))
    ratios = [
        a - b for a, b in zip(step_lists(table, "logp_train"), step_lists(table, "logp_rollout"), strict=True)
    ]
    low = sum((np.minimum.accumulate(r)[:-1] < np.log(0.5)).sum() for r in ratios)
    assert one(table, "low_prefix_share") == pytest.approx(low / sum(map(len, ratios)))
    assert one(table, "low_sequence_share") == pytest.approx(np.mean([r.min() < np.log(0.5) for r in ratios]))
    slopes = [np.polyfit(np.arange(len(r)), np.cumsum(r), 1)[0] for r in ratios]
    slope = np.average(slopes, weights=[len(r) for r in ratios])
    flat = np.concatenate(ratios)
    assert one(table, "prefix_drift") == pytest.approx(abs(slope) / (np.expm1(flat) - flat).mean(), rel=1e-6)


def test_positions_count_from_the_beginning(healthy: pa.Table, ratios: list[np.ndarray]) -> None:
    (reading,) = [r for r in readings(healthy, "ratio_bias_position") if r.subject == "step 3"]
    starts = [0, 1, 2, 4, 8, 16, 64, 256, 1024, 4096, 10**9]
    bins = [np.concatenate([np.exp(r[a:b]) - 1 for r in ratios]) for a, b in pairwise(starts)]
    assert [part.samples for part in reading.parts] == [len(b) for b in bins]
    there = [(part.value, b.mean()) for part, b in zip(reading.parts, bins, strict=True) if len(b)]
    assert [found for found, _ in there] == pytest.approx([mean for _, mean in there])


def test_positions_are_unbiased_where_the_length_depends_on_the_tokens() -> None:
    """Responses end at a token that engine and trainer weigh differently, as an end-of-text token can be."""
    rng = np.random.default_rng(0)
    ends_trainer, ends_engine = 0.05, 0.1
    rows = run_rows(steps=1, groups=120, length=2)
    for row in rows:
        size = int(rng.geometric(ends_engine))
        engine = np.full(size, np.log(1 - ends_engine))
        train = np.full(size, np.log(1 - ends_trainer))
        engine[-1], train[-1] = np.log(ends_engine), np.log(ends_trainer)
        row.update(
            logp_rollout=engine, logp_train=train, loss_mask=None, token_ids=None, logp_new=None, entropy=None
        )
    table = table_of(rows)
    assert one(table, "mismatch_k3", "step 0") > 0.01
    (reading,) = [r for r in readings(table, "ratio_bias_position") if r.subject == "run"]
    assert reading.low is not None
    assert reading.low < 0.002


def test_run_readings_pool_all_steps(healthy: pa.Table) -> None:
    flat = np.concatenate([v for step in range(12) for v in step_lists(healthy, "logp_train", step)])
    flat -= np.concatenate([v for step in range(12) for v in step_lists(healthy, "logp_rollout", step)])
    assert one(healthy, "ratio_bias", "run") == pytest.approx(abs(np.exp(flat).mean() - 1), rel=1e-6)
    k3 = [one(healthy, "mismatch_k3", f"step {step}") for step in range(12)]
    assert one(healthy, "mismatch_k3_median", "run") == pytest.approx(np.median(k3))
    assert one(healthy, "mismatch_growth", "run") == pytest.approx(k3[-1] / k3[0])


def test_low_probability_width_is_that_of_exact_quantiles(healthy: pa.Table) -> None:
    engine, train = (np.concatenate(step_lists(healthy, c)) for c in ("logp_rollout", "logp_train"))
    order = np.argsort(engine)[: len(engine) // 10]
    low, high = np.quantile((train - engine)[order], [0.02, 0.98])
    assert one(healthy, "low_probability_width") == pytest.approx(high - low, rel=0.05)


@pytest.mark.parametrize("deviation", [0.2, 1.0, 2.0, 4.0])
def test_pareto_k_is_arviz_k(deviation: float) -> None:
    from arviz_stats.base import array_stats  # type: ignore[attr-defined]

    logs = np.random.default_rng(5).normal(0, deviation, 1000)
    _, theirs = array_stats.psislw(-logs)  # fits one weight fewer: it rounds the size of the tail down
    assert pareto_k(logs) == pytest.approx(float(theirs), abs=0.04)
    tail = np.sort(np.exp(logs - logs.max()))[-tail_size(1000) - 1 :]
    assert pareto_k(logs) == pytest.approx(float(array_stats._gpdfit(tail[1:] - tail[0])[0]), rel=1e-9)


@given(st.floats(-50, 50), st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_pareto_k_does_not_depend_on_the_scale_of_weights(shift: float, seed: int) -> None:
    logs = np.random.default_rng(seed).normal(0, 1.5, 300)
    assert pareto_k(logs + shift) == pytest.approx(pareto_k(logs), abs=1e-9)


def test_group_quantities(healthy: pa.Table) -> None:
    rewards = np.array(_step(healthy, "reward")).reshape(-1, 8)
    lengths = np.array(_step(healthy, "response_len")).reshape(-1, 8)
    correlations = [stats.spearmanr(r, n).statistic for r, n in zip(rewards, lengths, strict=True)]
    assert one(healthy, "length_reward_correlation") == pytest.approx(abs(np.mean(correlations)))
    flips = (
        np.sign(rewards - rewards.mean(1, keepdims=True)) * np.sign(rewards - np.median(rewards, 1, keepdims=True))
    ) < 0
    assert one(healthy, "baseline_sign_share") == pytest.approx(flips.mean())


def test_binary_rewards_have_no_baseline_noise() -> None:
    rows = run_rows(steps=1, groups=4, length=8)
    for row in rows:
        row["reward"] = float(row["reward"] > 0.5)
    (reading,) = readings(table_of(rows), "baseline_sign_share")
    assert reading.value is None


def test_clipping_and_second_moment() -> None:
    from ckptaudit.damages.rollouts import one_sided_clip

    table = one_sided_clip(table_of(run_rows(steps=4, seed=4)))
    moved = [a - b for a, b in zip(step_lists(table, "logp_new"), step_lists(table, "logp_train"), strict=True)]
    advantages = np.repeat(_step(table, "advantage"), [len(m) for m in moved])
    flat = np.concatenate(moved)
    clipped = ((advantages > 0) & (np.exp(flat) > 1.2)) | ((advantages < 0) & (np.exp(flat) < 0.8))
    assert one(table, "clip_share") == pytest.approx(clipped.mean())
    assert one(table, "update_m2") == pytest.approx((flat**2).mean())


@given(st.integers(1, 70), st.integers(0, 3))
@settings(max_examples=8, deadline=None)
def test_figures_do_not_depend_on_how_rows_are_batched(size: int, seed: int) -> None:
    from dataclasses import replace

    table = table_of(run_rows(steps=2, groups=9, length=32, seed=seed))
    whole = rollouts_of(table)

    def small(columns: Iterable[str]) -> Iterator[Any]:
        return iter(table.combine_chunks().to_batches(max_chunksize=size))

    wanted = ["mismatch_k3", "ratio_bias_position", "advantage_error", "duplicate_share", "low_prefix_share"]
    for one_way, other in zip(
        measure(whole, FACTS, wanted), measure(replace(whole, open=small), FACTS, wanted), strict=True
    ):
        assert one_way.metric == other.metric
        assert one_way.value == pytest.approx(other.value, rel=1e-9)


def test_masked_tokens_count_for_nothing(healthy: pa.Table) -> None:
    from ckptaudit.damages.columns import lists, with_lists

    mask, sizes = lists(healthy, "loss_mask")
    hidden = np.random.default_rng(0).random(len(mask)) < 0.3
    spoilt, _ = lists(healthy, "logp_train")
    spoilt[hidden] = -50.0
    table = with_lists(healthy, "loss_mask", mask & ~hidden, sizes)
    same = with_lists(table, "logp_train", spoilt, sizes)
    for metric in ("mismatch_k3", "ratio_bias", "low_prefix_share", "logp_impossible_count"):
        assert one(same, metric) == one(table, metric)


def test_steps_that_come_back_are_refused(healthy: pa.Table) -> None:
    from ckptaudit.errors import RolloutError

    shuffled = pa.concat_tables([healthy.slice(600), healthy.slice(0, 600)])
    with pytest.raises(RolloutError, match="sort the table by step"):
        readings(shuffled, "mismatch_k3")


SIMULATED = {
    "noise 0.5": Engine(noise=0.5),
    "temperature 0.7": Engine(temperature=0.7, logged_temperature=0.7),
    "temperature 0.7, raw": Engine(temperature=0.7),
    "temperature 0.95, raw": Engine(temperature=0.95),
    "top-p 0.95": Engine(top_p=0.95),
    "top-p 0.95, raw": Engine(top_p=0.95, renormalised=False),
}


@pytest.mark.parametrize("case", sorted(SIMULATED))
def test_a_simulated_engine_is_seen_by_the_statistic_that_can_see_it(case: str) -> None:
    table = table_of(run_rows(steps=2, groups=16, length=40, engine=SIMULATED[case], seed=7))
    k3 = one(table, "mismatch_k3", "step 1")
    run = {r.metric: r for r in readings(table, "ratio_bias", "surprisal_gap") if r.subject == "run"}
    biased = (run["ratio_bias"].low or 0) > 0.002
    surprised = (run["surprisal_gap"].low or 0) > 0.01
    expected = {
        "noise 0.5": (True, False, False),
        "temperature 0.7": (True, False, True),
        "temperature 0.7, raw": (False, False, True),
        "temperature 0.95, raw": (False, False, True),
        "top-p 0.95": (False, True, True),
        "top-p 0.95, raw": (False, False, True),
    }[case]
    assert (k3 > 0.015, biased, surprised) == expected, (k3, run)


@pytest.mark.parametrize("side", ["logp_train", "logp_rollout"])
def test_impossible_log_probabilities_show_where_one_side_alone_is_logged(side: str) -> None:
    rows = run_rows(steps=2, length=8)
    for row in rows:
        del row["logp_rollout" if side == "logp_train" else "logp_train"]
    rows[3][side] = np.full(len(rows[3][side]), np.nan)
    found = readings(table_of(rows), "logp_impossible_count", "logp_zero_share")
    assert [r.value for r in found if r.metric == "logp_impossible_count"] == [len(rows[3][side]), 0]
    assert [r.value for r in found if r.metric == "logp_zero_share"] == [None]


@pytest.mark.parametrize(
    ("curve", "wrong"),
    [
        ([math.inf, math.inf, 1.0, 2.0], 0),
        ([1.0, math.inf, 2.0, 1.0], 0),
        ([1.0, 2.0, math.inf, math.inf], 2),
        ([1.0, math.nan, 2.0, 1.0], 1),
        ([-math.inf, 1.0, 2.0, 1.0], 1),
    ],
)
def test_an_overflow_that_loss_scaling_skipped_is_no_fault(
    curve: list[float], wrong: int, healthy: pa.Table
) -> None:
    for name, expected in (("grad_norm", wrong), ("loss", sum(not math.isfinite(v) for v in curve))):
        found = readings(healthy, "scalar_not_finite_count", scalars={name: dict(enumerate(curve))})
        assert [r.value for r in found] == [expected]
