"""Tokens done of tokens expected, before answers are known and after."""

from __future__ import annotations

from ckptaudit.behavior.token_count import FIRST_GUESS, TokenCount, Workload


def told() -> tuple[TokenCount, list[tuple[int, int]]]:
    seen: list[tuple[int, int]] = []
    return TokenCount(lambda done, total: seen.append((done, total))), seen


def test_given_texts_are_counted_as_they_are() -> None:
    count, seen = told()
    count.expect(Workload(tokens=30))
    count.scored(10)
    count.scored(20)
    assert seen == [(0, 30), (10, 30), (30, 30)]


def test_answers_that_are_still_to_come_are_as_long_as_those_that_came() -> None:
    count, _ = told()
    count.expect(Workload(tokens=40, answers=4, read=2, most=128))
    assert count.total == 40 + 6 * FIRST_GUESS
    count.answered(10, 2)
    assert count.total == 40 + 2 + 5 * 2
    count.answered(10, 6)
    assert count.total == 40 + 2 + 6 + (2 + 2) * 4


def test_no_answer_is_expected_to_be_longer_than_it_may_be() -> None:
    count, _ = told()
    count.expect(Workload(answers=3, most=5))
    assert count.total == 15


def test_what_was_not_expected_moves_the_total_and_never_passes_it() -> None:
    count, seen = told()
    count.expect(Workload(tokens=5))
    count.scored(8)
    count.finish()
    assert seen[-2:] == [(8, 8), (8, 8)]
