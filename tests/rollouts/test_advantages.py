"""Advantages against each trainer's formula, written out by hand, and the logs that break them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ckptaudit.damages.rollouts import lost_sample
from ckptaudit.rollouts.advantages import CONVENTIONS
from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.groups import GroupTable
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
    rows = run_rows(steps=3, groups=6, length=8)
    for start in range(0, len(rows), 48):
        step = rows[start : start + 48]
        groups = list(np.array([row["reward"] for row in step]).reshape(6, 8))
        lengths = np.array([row["response_len"] for row in step])
        for row, value in zip(step, of_step(name, groups, lengths), strict=True):
            row["advantage"] = value
    table = table_of(rows)
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
