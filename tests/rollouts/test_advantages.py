"""Advantages against each trainer's formula, written out by hand, and the logs that break them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptaudit.damages.rollouts import lost_sample
from ckptaudit.rollouts.advantages import CONVENTIONS
from ckptaudit.rollouts.facts import CONVENTIONS as DECLARABLE
from ckptaudit.rollouts.facts import RunFacts, run_facts
from ckptaudit.rollouts.groups import GroupTable
from ckptaudit.rollouts.readings import NONE_HERE, Reading
from ckptaudit.rollouts.rows import constant
from tests.rollouts.judged import broken_checks, readings
from tests.rollouts.simulated import run_rows, table_of

OVER_THE_STEP = ("trl-batch", "reinforce++")
"""Conventions that need more than one group."""


def by_hand(name: str, r: np.ndarray) -> np.ndarray:
    n, mean, s = len(r), r.mean(), r.std(ddof=1)
    others = [np.delete(r, i) for i in range(n)]
    if name == "nemo-rl":
        spread = np.array([o.std(ddof=1) for o in others])
        centred = np.array([r[i] - o.mean() for i, o in enumerate(others)])
        return np.where(spread > 0, centred / (spread + 1e-6), centred)
    if name == "mc-grpo":
        centred = (r - np.median(r)) / (np.median(np.abs(r - np.median(r))) + 1e-3)
        return centred * n / (centred != 0).sum()
    if name == "prime-rl":
        return r - mean
    if name == "rloo":
        return np.array([r[i] - o.mean() for i, o in enumerate(others)])
    if name == "maxrl":
        return (r - mean) / (mean + 1e-6)
    if name == "areal":
        return (r - mean) / (r.std() + 1e-5)
    return (r - mean) / (s + {"verl": 1e-6, "slime": 1e-6, "trl": 1e-4, "openrlhf": 1e-9}[name])


def of_step(name: str, groups: list[np.ndarray], lengths: np.ndarray) -> np.ndarray:
    """The advantages of all groups of a step."""
    if name not in OVER_THE_STEP:
        return np.concatenate([by_hand(name, group) for group in groups])
    rewards, centred = np.concatenate(groups), np.concatenate([group - group.mean() for group in groups])
    if name == "trl-batch":
        return centred / (rewards.std(ddof=1) + 1e-4)
    tokens = np.repeat(centred, lengths)  # OpenRLHF whitens the tokens of all sequences together
    return (centred - tokens.mean()) / np.sqrt(max(tokens.var(), 1e-8))


def run_by(name: str, *, steps: int, groups: int) -> list[dict[str, Any]]:
    """A run of groups of eight whose advantages are those of a convention."""
    rows, size = run_rows(steps=steps, groups=groups, length=8), 8 * groups
    for start in range(0, len(rows), size):
        step = rows[start : start + size]
        rewards = list(np.array([row["reward"] for row in step]).reshape(groups, 8))
        lengths = np.array([row["response_len"] for row in step])
        for row, value in zip(step, of_step(name, rewards, lengths), strict=True):
            row["advantage"] = value
    return rows


@pytest.mark.parametrize("name", sorted(CONVENTIONS))
def test_advantages_of_a_convention(name: str) -> None:
    rng = np.random.default_rng(2)
    groups = [rng.random(n) for n in (4, 8, 5, 8)]
    lengths = rng.integers(1, 40, 25)
    index = np.repeat(np.arange(4), [len(g) for g in groups])
    table = GroupTable(index, tuple("abcd"), np.arange(len(index)), {"length": lengths.astype(float)})
    found = CONVENTIONS[name](table, np.concatenate(groups))
    assert found == pytest.approx(of_step(name, groups, lengths), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", sorted(set(CONVENTIONS) - {"slime"}))
def test_the_convention_is_found_where_none_is_declared(name: str) -> None:
    table = table_of(run_by(name, steps=3, groups=6))
    found = readings(table, "advantage_error", facts=RunFacts())
    assert all(r.value is not None and r.value < 1e-9 for r in found)
    fits = {name, "slime"} if name == "verl" else {name}
    assert all(any(f"{fit} fits" in r.remark for fit in fits) for r in found), found[0].remark
    assert all(r.value == 0 for r in readings(table, "advantage_sign_flips", facts=RunFacts(advantage=name)))


def test_equal_rewards_that_do_not_cancel_in_float32_are_no_error() -> None:
    rows = run_rows(steps=1, groups=4, length=8)
    for row in rows:
        row["reward"], row["advantage"] = 1.2, 0.00119  # what TRL logs for eight rewards of 1.2
    table = table_of(rows)
    for metric in ("advantage_error", "advantage_sign_flips"):
        (found,) = readings(table, metric)
        assert found.value == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("convention", ["trl", "prime-rl", None])
def test_an_advantage_that_is_no_finite_number_is_named(value: float, convention: str | None) -> None:
    rows = run_rows(steps=2)
    rows[5]["advantage"] = value
    found = readings(table_of(rows), "advantage_not_finite_count", facts=RunFacts(advantage=convention))
    assert [r.value for r in found] == [1, 0]
    assert found[0].worst == (rows[5]["sample_id"],)


@pytest.mark.parametrize("by_token", [True, False])
def test_a_nan_at_one_token_is_named(by_token: bool) -> None:
    rows = run_rows(steps=2, length=8)
    for row in rows:
        row["advantages"] = np.full(row["response_len"], row["advantage"])
        if by_token:
            row["advantage"] = None
    rows[5]["advantages"][3] = math.nan
    found = readings(table_of(rows), "advantage_not_finite_count", facts=RunFacts())
    assert [(r.value, r.samples) for r in found] == [(1, len(rows) // 2), (0, len(rows) // 2)]
    assert found[0].worst == (rows[5]["sample_id"],)


def test_a_nan_under_the_loss_mask_alone_counts() -> None:
    rows = run_rows(steps=1, length=8)
    for row in rows:
        row["advantages"] = np.full(row["response_len"], row["advantage"])
        row["loss_mask"] = np.arange(row["response_len"]) > 0
    rows[2]["advantages"][0] = math.nan
    (found,) = readings(table_of(rows), "advantage_not_finite_count", facts=RunFacts())
    assert found.value == 0


def test_a_mask_of_another_length_hides_no_nan_of_its_own_or_another_sample() -> None:
    rows = run_rows(steps=1, length=8)
    for row in rows:
        row["advantages"] = np.full(8, row["advantage"])
        row["loss_mask"] = np.zeros(8, dtype=bool)
    rows[1]["loss_mask"], rows[2]["loss_mask"] = np.zeros(7, dtype=bool), np.zeros(9, dtype=bool)
    rows[2]["advantages"][0] = rows[4]["advantages"][0] = math.nan
    (found,) = readings(table_of(rows), "advantage_not_finite_count", facts=RunFacts())
    assert (found.value, found.worst) == (1, (rows[2]["sample_id"],))


@pytest.mark.parametrize("unfit", [math.nan, math.inf, -math.inf])
def test_one_value_for_all_tokens_is_unfit_where_one_of_them_is(unfit: float) -> None:
    assert constant([0.5, unfit, 0.5]) == pytest.approx(unfit, nan_ok=True)
    assert constant([0.5, unfit], np.array([True, False])) == 0.5
    assert constant([0.5, 0.25]) is None


def test_one_huge_advantage_hides_behind_no_other_convention() -> None:
    rows = run_rows(steps=3, groups=8, length=8)
    rows[70]["advantage"] = -2075.0
    found = readings(table_of(rows), "advantage_bound", facts=RunFacts())
    assert max(r.value or 0.0 for r in found) > 100
    assert "advantages-bounded" in broken_checks(table_of(rows), facts=RunFacts())


def test_the_bound_of_a_convention_says_nothing_of_one_that_is_not_known() -> None:
    rng, rows = np.random.default_rng(3), run_rows(steps=3, groups=8, length=8)
    for row in rows:
        row["advantage"] = float(rng.normal(0, 4))  # no z-score of anything
    (found,) = readings(table_of(rows), "advantage_bound", facts=RunFacts())
    assert found.value is None
    assert found.remark.startswith(NONE_HERE)
    assert "advantages-bounded" in broken_checks(table_of(rows), facts=RunFacts(advantage="verl"))


def test_every_convention_may_be_declared(tmp_path: Path) -> None:
    assert tuple(CONVENTIONS) == DECLARABLE
    for name in CONVENTIONS:
        assert run_facts({"advantage": name}, tmp_path / "ckptaudit.toml").advantage == name


def test_nothing_is_said_of_advantages_of_which_none_is_finite() -> None:
    rows = run_rows(steps=2)
    for row in rows:
        row["advantage"] = math.nan
    names = ("advantage_error", "advantage_sign_flips", "advantage_bound", "advantage_group_sum")
    found = readings(table_of(rows), *names)
    assert {r.metric for r in found} == set(names)
    assert all(r.value is None and "is a finite number" in r.remark for r in found)


def test_an_advantage_that_was_not_logged_is_none() -> None:
    rows = run_rows(steps=2)
    for row in rows[:40]:
        row["advantage"] = None
    found = readings(table_of(rows), "advantage_not_finite_count")
    assert [(r.value, r.samples) for r in found] == [(0, 56), (0, 96)]


def test_a_group_that_lost_a_row_is_no_broken_bound() -> None:
    """One right answer in eight is a z-score of 2.47; of seven values none can be above 2.27."""
    rows = run_rows(steps=1, groups=4)
    rewards = np.array([1.0] + [0.0] * 7)
    for place, row in enumerate(rows):
        row["reward"] = rewards[place % 8]
        row["advantage"] = float(by_hand("trl", rewards)[place % 8])
    rows = [row for place, row in enumerate(rows) if place % 8 != 5 or place > 8]
    for size in (8, None):
        facts = RunFacts(advantage="trl", group_size=size)
        (found,) = readings(table_of(rows), "advantage_bound", facts=facts)
        assert found.value == pytest.approx(1.0, abs=1e-3)
    assert "advantages-bounded" not in broken_checks(lost_sample(table_of(rows)))


def test_verl_centres_all_groups_of_more_than_one() -> None:
    rows = run_rows(steps=1, groups=4, size=8)
    for start in range(0, len(rows), 8):
        group = rows[start : start + 8]
        made = by_hand("verl", np.array([row["reward"] for row in group]))
        for row, value in zip(group, made, strict=True):
            row["advantage"] = value + 9e-4
    largest = np.abs([row["advantage"] for row in rows]).reshape(4, 8).max(axis=1)
    (found,) = readings(table_of(rows), "advantage_group_sum", facts=RunFacts(advantage="verl"))
    assert found.value == pytest.approx((9e-4 / largest).max(), rel=1e-2)  # less what float32 may do


Rows = list[dict[str, Any]]


def share_of_run(rows: Rows, advantage: str | None = None) -> Reading:
    found = readings(table_of(rows), "reversed_group_share", facts=RunFacts(advantage=advantage))
    (of_run,) = (r for r in found if r.subject == "run")
    return of_run


def negated(rows: Rows, chosen: Callable[[dict[str, Any]], bool] = lambda row: True) -> Rows:
    return [{**row, "advantage": -row["advantage"]} if chosen(row) else row for row in rows]


def test_a_run_that_is_pushed_away_from_its_rewards_for_some_steps_is_found() -> None:
    rows = run_rows(steps=9, groups=24, length=8)
    late = negated(rows, lambda row: row["step"] >= 7)
    assert share_of_run(rows).value == 0
    assert share_of_run(late).value == 1
    assert "at step" in share_of_run(late).remark
    assert "advantages-not-reversed" in broken_checks(table_of(late))


def test_steps_of_few_groups_are_taken_together() -> None:
    rows = run_rows(steps=12, groups=4, length=8)
    found = share_of_run(negated(rows))
    assert found.value == 1
    assert found.samples >= 12
    assert "at steps" in found.remark


def test_the_last_step_alone_is_enough() -> None:
    rows = run_rows(steps=5, groups=16, length=8)
    found = share_of_run(negated(rows, lambda row: row["step"] == 4))
    assert found.value == 1
    assert found.remark.endswith("groups at step 4")


def test_groups_that_shaping_reverses_do_not_close_the_gate() -> None:
    rows = run_rows(steps=4, groups=24, length=8)
    some = {name for at, name in enumerate(dict.fromkeys(row["group_id"] for row in rows)) if at % 2}
    mixed = negated(rows, lambda row: row["group_id"] in some)
    assert 0.3 < (share_of_run(mixed).value or 0.0) < 0.7
    assert "advantages-not-reversed" not in broken_checks(table_of(mixed))


def test_what_is_added_to_the_reward_later_hides_no_reversal() -> None:
    rng, rows = np.random.default_rng(5), run_rows(steps=3, groups=24, length=8)
    noisy = [{**row, "advantage": row["advantage"] + rng.normal(0, 0.1)} for row in rows]
    assert share_of_run(noisy).value == 0
    assert (share_of_run(negated(noisy)).value or 0.0) > 0.9


def test_few_groups_say_nothing() -> None:
    found = share_of_run(negated(run_rows(steps=1, groups=5, length=8)))
    assert found.value is None
    assert found.remark.startswith(NONE_HERE)


@pytest.mark.parametrize("name", sorted(set(CONVENTIONS) - {"slime"}))
def test_a_reversal_shows_whatever_the_convention_is_and_is_said_to_be(name: str) -> None:
    rows = run_by(name, steps=4, groups=8)
    for declared in (None, name, "trl"):
        assert share_of_run(rows, declared).value == 0
        assert (share_of_run(negated(rows), declared).value or 0.0) > 0.9
