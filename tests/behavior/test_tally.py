"""Tokens done of tokens expected, before answers are known and after."""

from __future__ import annotations

from ckptaudit.behavior.tally import FIRST_GUESS, Tally, Workload


def told() -> tuple[Tally, list[tuple[int, int]]]:
    seen: list[tuple[int, int]] = []
    return Tally(lambda done, total: seen.append((done, total))), seen


def test_given_texts_are_counted_as_they_are() -> None:
    tally, seen = told()
    tally.expect(Workload(tokens=30))
    tally.scored(10)
    tally.scored(20)
    assert seen == [(0, 30), (10, 30), (30, 30)]


def test_answers_that_are_still_to_come_are_as_long_as_those_that_came() -> None:
    tally, _ = told()
    tally.expect(Workload(tokens=40, answers=4, read=2, most=128))
    assert tally.total == 40 + 6 * FIRST_GUESS
    tally.answered(10, 2)
    assert tally.total == 40 + 2 + 5 * 2
    tally.answered(10, 6)
    assert tally.total == 40 + 2 + 6 + (2 + 2) * 4


def test_no_answer_is_expected_to_be_longer_than_it_may_be() -> None:
    tally, _ = told()
    tally.expect(Workload(answers=3, most=5))
    assert tally.total == 15


def test_what_was_not_expected_moves_the_total_and_never_passes_it() -> None:
    tally, seen = told()
    tally.expect(Workload(tokens=5))
    tally.scored(8)
    tally.finish()
    assert seen[-2:] == [(8, 8), (8, 8)]
