"""A margin is a factor where a factor means something, and a difference where none does."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptaudit.judging.verdict import times_over
from ckptaudit.report.appearance import margin

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


@pytest.mark.parametrize(
    ("value", "limit", "sign", "words"),
    [
        (0.0021, 0.001, "<=", "x2.1 over"),
        (0.0005, 0.001, "<=", "x2 inside"),
        (0.1, 0.275, ">=", "x2.8 under"),
        (0.55, 0.275, ">=", "x2 inside"),
        (0.4989, 0.5, "<=", "x1.002 inside"),
        (123.0, 1.0, "<=", "x123 over"),
        (558826.0, 1.0, ">=", "x5.6e5 inside"),
        (0.001, 0.001, "<=", "at limit"),
        (0.0, 0.0, "<=", "at limit"),
        (3.0, 0.0, "<=", "3 over"),
        (0.0, 0.001, "<=", "0.001 inside"),
        (0.0, 0.275, ">=", "0.275 under"),
        (-2.0, -1.0, "<=", "1 inside"),
        (-0.5, -1.0, "<=", "0.5 over"),
    ],
)
def test_a_margin_in_words(value: float, limit: float, sign: str, words: str) -> None:
    assert margin(value, limit, sign) == words


@given(value=NUMBERS, limit=NUMBERS)
@pytest.mark.parametrize("sign", ["<=", ">="])
def test_beyond_one_is_broken_and_nothing_else_is(sign: str, value: float, limit: float) -> None:
    broken = value > limit if sign == "<=" else value < limit
    # Two numbers may be so close that their quotient rounds to one.
    assert (times_over(value, limit, sign) > 1) == broken or math.isclose(value, limit, rel_tol=1e-12)


@given(value=st.floats(1e-6, 1e6), limit=st.floats(1e-6, 1e6))
def test_the_two_signs_mirror_each_other(value: float, limit: float) -> None:
    assert times_over(value, limit, "<=") == times_over(limit, value, ">=")
