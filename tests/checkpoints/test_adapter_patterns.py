"""Patterns of ranks and scales choose as peft's regular expressions do, and cost no more than their length."""

from __future__ import annotations

import re
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptaudit.checkpoints.adapters.patterns import UnreadPatternError, compiled

PIECES = st.sampled_from(["a", "b", "1", "-", ".", r"\.", r"\d", ".*", ".+", r"\d+", r"\d*", "a+", "b*"])
WAY = st.tuples(
    st.sampled_from(["", "", "^"]), st.lists(PIECES, min_size=1, max_size=6), st.sampled_from(["", "$"])
)
PATTERN = st.lists(WAY.map(lambda way: way[0] + "".join(way[1]) + way[2]), min_size=1, max_size=2).map("|".join)
NAMES = st.text(alphabet="ab1-.", min_size=1, max_size=10)


def chosen_by_peft(patterns: dict[str, float], module: str) -> float:
    return next((v for p, v in patterns.items() if re.match(rf"(.*\.)?({p})$", module)), 0)


@given(st.lists(PATTERN, min_size=1, max_size=4, unique=True), st.lists(NAMES, min_size=1, max_size=6))
def test_the_first_pattern_that_matches_is_chosen(patterns, modules):
    valued = {pattern: float(i + 1) for i, pattern in enumerate(patterns)}
    try:
        ready = compiled(valued)
    except UnreadPatternError:
        return
    for module in modules:
        assert ready.first(module, 0) == chosen_by_peft(valued, module), (valued, module)


@pytest.mark.parametrize(
    "pattern",
    ["", "(a+)+b", "a{9}", "[ab]", "a?", r"\w+", "a\\", "(?=a)", "a|", ".*.*.*.*x", "a^b", "$a", "a b"],
)
def test_other_regular_expressions_are_not_read(pattern):
    with pytest.raises(UnreadPatternError):
        compiled({pattern: 1})


def test_names_that_peft_writes_are_read():
    names = {f"model.layers.{i}.self_attn.{p}_proj": i + 1 for i in range(80) for p in "qkvo"}
    ready = compiled({**names, r".*\.mlp\..*": 7, r"layers\.\d+\.norm|^lm_head$": 9})
    assert all(ready.first(name, 0) == value for name, value in names.items())
    assert ready.first("model.layers.3.mlp.up_proj", 0) == 7
    assert ready.first("model.layers.12.norm", 0) == ready.first("lm_head", 0) == 9
    assert ready.first("x.lm_head", 0) == 0


@pytest.mark.parametrize("repeated", [".*a.*b.*c", r".*\d*.*"])
def test_no_pattern_backtracks(repeated):
    """As a regular expression the first takes seconds on one name, and longer by the cube of its length."""
    ready = compiled({repeated + "x" * i: 1 for i in range(1, 30)})
    begin = perf_counter()
    for i in range(20):
        ready.first("a.b." * 60 + str(i), 0)
    assert perf_counter() - begin < 2
