"""Every bundled check of rollouts holds on a healthy run, and is broken by its own damage."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from ckptaudit.damages.curves import CURVE_DAMAGES
from ckptaudit.damages.rollouts import DAMAGES
from ckptaudit.rollouts.quantities import metrics
from tests.rollouts.judged import CHECKS, about, broken_checks, limit_is_broken, readings
from tests.rollouts.simulated import run_rows, table_of

NOT_JUDGED_WHEN_HEALTHY = {
    "clip-acts-on-stale-samples",  # no sample is stale
    "clip-acts-on-both-sides",  # nothing is clipped
    "reference-priced-in-its-group",  # no sample is a reference
    "siblings-share-their-prefix",  # nothing branches
}
WIDE = {"sequence-weights-tail"}
ALL = [pytest.param(check, id=check["id"]) for check in CHECKS]


@pytest.fixture(scope="module")
def curves(healthy: pa.Table) -> dict[str, dict[int, float]]:
    """What the trainer of the healthy run would have logged."""
    logged: dict[str, dict[int, float]] = {"grad_norm": {step: 1.0 + step % 3 / 10 for step in range(12)}}
    names = {"reward_mean": "reward_mean", "response_length": "len_mean", "mismatch_k3": "mismatch_k3"}
    for reading in readings(healthy, *names):
        if reading.value is not None:
            logged.setdefault(names[reading.metric], {})[int(reading.subject.split()[1])] = reading.value
    return logged


@pytest.fixture
def table(check: dict[str, Any], healthy: pa.Table, wide: pa.Table) -> pa.Table:
    return wide if check["id"] in WIDE else healthy


@pytest.mark.parametrize("check", ALL)
def test_holds_on_a_healthy_run(check: dict[str, Any], table: pa.Table, curves: Any) -> None:
    found = about(check, readings(table, check["metric"], scalars=curves, checkpoint_steps=(5, 11)))
    judged = [reading for reading in found if reading.value is not None]
    assert bool(judged) != (check["id"] in NOT_JUDGED_WHEN_HEALTHY), found
    assert not [reading for reading in judged if limit_is_broken(check, reading)]


@pytest.mark.parametrize("check", ALL)
def test_is_broken_by_its_own_damage(check: dict[str, Any], table: pa.Table, curves: Any) -> None:
    damage = check["breaks_when"]
    if damage in CURVE_DAMAGES:
        found = readings(table, check["metric"], scalars=CURVE_DAMAGES[damage](curves))
    else:
        found = readings(DAMAGES[damage](table), check["metric"], checkpoint_steps=tuple(range(12)))
    assert any(limit_is_broken(check, reading) for reading in about(check, found)), found[:3]


def test_the_checks_name_metrics_and_damages_that_exist() -> None:
    assert {check["metric"] for check in CHECKS} <= set(metrics())
    assert {check["breaks_when"] for check in CHECKS} <= {*DAMAGES, *CURVE_DAMAGES}
    for check in CHECKS:
        assert check["per"] in metrics()[check["metric"]].per


def test_a_healthy_run_breaks_nothing(healthy: pa.Table, curves: Any) -> None:
    assert broken_checks(healthy, curves) == set()


EXACTLY = {
    "nan_logp": {"logps-possible"},
    "positive_logp": {"logps-possible"},
    "short_logps": {"lists-aligned"},
    "long_mask": {"lists-aligned"},
    "sharper_sampling": {"tokens-as-surprising-as-entropy-says"},
    "late_tokens_off": {"ratio-unbiased", "ratio-unbiased-along-response", "prefix-ratios-do-not-drift"},
    "growing_mismatch": {"mismatch-steady"},
    "aged_samples": {"staleness-as-declared", "clip-acts-on-stale-samples"},
    "lost_sample": {"groups-of-declared-size", "advantages-follow-rewards", "advantages-centred"},
    "flipped_advantages": {
        "advantages-follow-rewards", "advantages-have-the-sign-of-the-reward", "advantages-centred",
    },
    "negated_advantages": {
        "advantages-follow-rewards", "advantages-have-the-sign-of-the-reward", "advantages-not-reversed",
    },
    "wrong_epsilon": {"advantages-follow-rewards"},
    "population_deviation": {"advantages-follow-rewards", "advantages-bounded"},
    "equal_rewards": {"groups-have-signal"},
    "looping_answers": {"few-loops"},
    "paid_by_length": {"reward-not-by-length"},
    "format_for_accuracy": {"no-component-traded"},
    "lost_step": {"steps-without-gaps"},
}  # fmt: skip


@pytest.mark.parametrize("damage", sorted(EXACTLY))
def test_a_damage_breaks_these_checks_and_no_other(damage: str, healthy: pa.Table) -> None:
    assert broken_checks(DAMAGES[damage](healthy)) == EXACTLY[damage]


@pytest.mark.parametrize("damage", ["shifted_by_one", "swapped_sequences"])
def test_k3_finds_what_k1_passes(damage: str, healthy: pa.Table) -> None:
    found = readings(DAMAGES[damage](healthy), "mismatch_k1", "mismatch_k3")
    k1 = [abs(r.value) for r in found if r.metric == "mismatch_k1" and r.value is not None]
    k3 = [r.low for r in found if r.metric == "mismatch_k3" and r.low is not None]
    assert sum(k1) / len(k1) < 0.1
    assert "mismatch-k3" in broken_checks(DAMAGES[damage](healthy))
    assert max(k3) > 0.015


@pytest.mark.parametrize("damage", ["renormalised_engine", "first_token_off", "late_tokens_off"])
def test_bias_shows_where_k3_stays_below_its_limits(damage: str, healthy: pa.Table) -> None:
    broken = broken_checks(DAMAGES[damage](healthy))
    assert {"ratio-unbiased", "ratio-unbiased-at-first-token", "ratio-unbiased-along-response"} & broken
    assert not {"mismatch-k3", "mismatch-absolute"} & broken


def test_a_mild_offset_of_sequences_leaves_the_tail_light() -> None:
    import numpy as np

    from ckptaudit.rollouts.pareto import largest_usable_k, pareto_k

    rng = np.random.default_rng(0)
    mild = np.mean([pareto_k(rng.normal(0, 1, 400)) < largest_usable_k(400) for _ in range(60)])
    heavy = np.mean([pareto_k(rng.normal(0, 3, 400)) > largest_usable_k(400) for _ in range(60)])
    assert mild > 0.9
    assert heavy > 0.9


def test_identical_sides_are_not_judged(healthy: pa.Table) -> None:
    from ckptaudit.damages.columns import lists, with_lists

    same = with_lists(healthy, "logp_train", *lists(healthy, "logp_rollout"))
    found = readings(same, "mismatch_k3", "mismatch_k3_median", "ratio_bias", "tail_share", "low_probability_width")
    assert found
    assert all(reading.value is None for reading in found)
    assert any("identical" in reading.remark for reading in found)


def test_few_tokens_are_not_judged() -> None:
    few = table_of(run_rows(steps=2, groups=2, size=4, length=16))
    found = readings(few, "mismatch_k3", "tail_share")
    assert {reading.value for reading in found} == {None}
    assert "at least 2,000" in found[0].remark
