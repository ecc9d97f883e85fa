from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptaudit.behavior.text_counters import distinct, is_refusal, self_bleu, truncated_alike, vendi
from tests.conftest import package


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        ("I'm sorry, I cannot help with that.", True),
        ("Well, I can't do this.", True),
        ("i'm SORRY", False),
        ("Sure, here is how.", False),
        ("", False),
    ],
)
def test_a_refusal_is_told_by_its_strings(answer: str, refused: bool) -> None:
    assert is_refusal(answer) is refused


def test_what_is_repeated_of_the_prompt_is_no_refusal() -> None:
    assert not is_refusal("'I cannot swim' is short.", prompt="I cannot swim")
    assert is_refusal("no", strings=("no",))


def test_every_apostrophe_is_as_good_as_the_straight_one() -> None:
    curly = "I\u2019m sorry, but I can\u2019t help with that."
    assert is_refusal(curly)
    assert is_refusal("I can't.", strings=("I can\u2019t",))
    assert not is_refusal(f"'{curly}' is polite.", prompt="I'm sorry, but I can't help with that.")


def test_distinct_counts_over_all_answers() -> None:
    assert distinct(["abc", "abd"], 1) == pytest.approx(4 / 6)
    assert distinct(["abc", "abd"], 2) == pytest.approx(3 / 4)
    assert distinct(["aaaa"], 1) == pytest.approx(1 / 4)
    assert distinct(["a", ""], 2) is None
    assert truncated_alike(["aa", "aaaa"], ["a", "aaaaaaaaa"]) == 3


def test_self_bleu_rises_as_answers_agree() -> None:
    package("sacrebleu")
    same, apart = (
        ["the cat sat on the mat"] * 3,
        ["the cat sat down now", "a dog ran off there", "rain fell all day long"],
    )
    assert self_bleu(same) == pytest.approx(100)
    assert (self_bleu(apart) or 0) < 20
    assert self_bleu(["alone"]) is None


@given(st.integers(1, 8))
def test_vendi_counts_orthogonal_vectors(n: int) -> None:
    assert vendi(np.eye(8)[:n]) == pytest.approx(n)
    assert vendi(np.ones((n, 3))) == pytest.approx(1)


def test_vendi_is_the_exponential_of_an_entropy() -> None:
    vectors = np.random.default_rng(0).normal(size=(12, 5))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    # The Gram matrix and the covariance share their eigenvalues but for zeros.
    weights = np.linalg.eigvalsh(units.T @ units / 12)
    assert vendi(vectors) == pytest.approx(np.exp(-(weights * np.log(weights)).sum()), rel=1e-9)
