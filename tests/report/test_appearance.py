"""A margin is a factor where a factor means something, and a difference where none does."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptaudit.judging.verdict import times_over
from ckptaudit.report.appearance import beyond, clipped, margin, margin_of, shortened
from tests.synthetic import verdict

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


@pytest.mark.parametrize(
    ("value", "limit", "sign", "words"),
    [
        (0.0021, 0.001, "<=", "2.1x the limit"),
        (0.0005, 0.001, "<=", "2x inside"),
        (0.1, 0.275, ">=", "2.8x below the minimum"),
        (0.55, 0.275, ">=", "2x inside"),
        (0.4989, 0.5, "<=", "1.002x inside"),
        (123.0, 1.0, "<=", "123x the limit"),
        (558826.0, 1.0, ">=", "5.6e5x inside"),
        (0.001, 0.001, "<=", "at the limit"),
        (0.0, 0.0, "<=", "at the limit"),
        (3.0, 0.0, "<=", "3 above the limit"),
        (0.0, 0.001, "<=", "0.001 inside"),
        (0.0, 0.275, ">=", "0.275 below the minimum"),
        (-2.0, -1.0, "<=", "1 inside"),
        (-0.5, -1.0, "<=", "0.5 above the limit"),
        (math.inf, 0.015, "<=", "infinite"),
        (-math.inf, 0.3, ">=", "infinite"),
        (math.nan, 3.0, "<=", "not a number"),
        (math.nan, 0.3, ">=", "not a number"),
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


@pytest.mark.parametrize(
    ("metric", "value", "words"),
    [
        ("normalized_spectral_shift", 0.021, "21x the limit"),
        ("nonfinite_entries", 1.0, "1 entry, limit <= 0"),
        ("nonfinite_entries", 3.0, "3 entries, limit <= 0"),
        ("depth_outliers", 1.0, "1 matrix, limit <= 0"),
        ("depth_outliers", 2.0, "2 matrices, limit <= 0"),
    ],
)
def test_a_count_is_told_without_a_margin(metric: str, value: float, words: str) -> None:
    is_count = metric != "normalized_spectral_shift"
    limit = 0.0 if is_count else 0.001
    found = msgspec.structs.replace(verdict("layers.0", value, limit=limit), metric=metric)
    assert beyond(found) == words
    assert (margin_of(found) == "") == is_count


def test_names_are_cut_on_the_left_and_sentences_on_the_right() -> None:
    assert shortened("model.layers.0.self_attn.q_proj.weight", 15) == "..q_proj.weight"
    assert clipped("The update is small.", 12) == "The updat..."


@pytest.mark.parametrize(
    ("name", "width", "shown"),
    [
        ("tokenizer.json:model.type", 14, "..model.type"),
        ("config.json:problem_type", 13, "problem_type"),
        ("lm_head, embed_tokens", 13, "embed_tokens"),
        ("L3 post_attention_layernorm", 13, "..layernorm"),
        ("encoder L0 LayerNorm.bias", 12, "..rNorm.bias"),
        ("unbrokenword", 6, "..word"),
    ],
)
def test_a_name_is_cut_where_a_word_begins_if_that_leaves_most_of_the_room(
    name: str, width: int, shown: str
) -> None:
    assert shortened(name, width) == shown


@given(st.text("ab.:_ /-", max_size=40), st.integers(1, 30))
def test_a_shortened_name_ends_as_the_name_and_fits(name: str, width: int) -> None:
    found = shortened(name, width)
    assert len(found) <= width
    assert name.endswith(found.removeprefix(".."))


def test_what_passes_beyond_its_limit_by_its_interval_is_told_without_a_factor() -> None:
    assert margin_of(verdict("run", 0.0022, outcome="passed")) == "interval reaches the limit"
    assert margin_of(verdict("run", 0.0022, outcome="failed")) == "2.2x the limit"
