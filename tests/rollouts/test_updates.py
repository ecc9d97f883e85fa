"""What clipping does to either side, and how old samples are."""

from __future__ import annotations

from typing import Any

import pytest

from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.readings import Reading
from tests.rollouts.judged import FACTS, broken_checks, readings
from tests.rollouts.simulated import run_rows, table_of


def moved_down(bad_tokens: int, good_tokens: int) -> list[dict[str, Any]]:
    """A step in which so many tokens of bad, and of good, answers are clipped."""
    rows = run_rows(steps=1, seed=3)
    left = {-1: bad_tokens, 1: good_tokens}
    for row in rows:
        sign = 1 if row["advantage"] > 0 else -1
        row["logp_new"] = list(row["logp_train"])
        for place in range(min(left[sign], len(row["logp_new"]))):
            row["logp_new"][place] += 0.5 * sign
        left[sign] -= min(left[sign], len(row["logp_new"]))
    return rows


def asymmetry(bad_tokens: int, good_tokens: int) -> tuple[Reading, float]:
    """The reading, and what it is by hand with one token on a side that has none."""
    rows = moved_down(bad_tokens, good_tokens)
    (found,) = readings(table_of(rows), "clip_asymmetry")
    bad, good = (
        sum(row["response_len"] for row in rows if bool(row["advantage"] > 0) == up) for up in (False, True)
    )
    ratio = (max(good_tokens, 1) / good) / (max(bad_tokens, 1) / bad)
    return found, max(ratio, 1 / ratio)


def test_clipping_of_bad_answers_alone_breaks_the_check() -> None:
    found, by_hand = asymmetry(200, 0)
    assert found.value == pytest.approx(by_hand)
    assert "clip-acts-on-both-sides" in broken_checks(table_of(moved_down(200, 0)))


def test_a_few_clipped_tokens_on_one_side_may_be_chance() -> None:
    found, by_hand = asymmetry(6, 0)
    assert found.value == pytest.approx(by_hand)
    assert found.low == 1.0


def test_clipping_of_both_sides_alike_is_no_asymmetry() -> None:
    found, by_hand = asymmetry(200, 200)
    assert found.value == pytest.approx(by_hand)
    assert "clip-acts-on-both-sides" not in broken_checks(table_of(moved_down(200, 200)))


def test_where_nothing_is_clipped_the_reading_says_so() -> None:
    found, _ = asymmetry(0, 0)
    assert (found.value, found.remark) == (None, "this run has no clipped token")


def test_without_a_declared_range_the_reading_asks_for_it() -> None:
    table = table_of(moved_down(200, 0))
    (found,) = readings(table, "clip_asymmetry", facts=RunFacts(group_size=8))
    assert (found.value, found.remark) == (None, "declare clip_low and clip_high in [rollouts]")


def test_the_age_of_samples_newer_than_the_trainer_is_negative() -> None:
    rows = run_rows(steps=1)
    for row in rows:
        row["version_first"] = row["version_train"] + 3
    (found,) = readings(table_of(rows), "staleness", facts=FACTS)
    assert (found.value, found.remark) == (-3, "a sample is 3 versions newer than the trainer")
