from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckptaudit.behavior import packs, scoring
from ckptaudit.behavior.causal_models import CausalModel
from ckptaudit.behavior.packs import Pack, Scored, packed
from ckptaudit.behavior.scoring import score

Opened = Callable[[str], CausalModel]

PROMPTS = [tuple(range(3 + n, 23 + 2 * n)) for n in range(5)]
TEXTS = [Scored((*p, *(7 * n + i for i in range(2 + n % 4))), len(p)) for p in PROMPTS for n in range(6)]


def by_hand(model: CausalModel, text: Scored) -> np.ndarray[Any, Any]:
    """One pass over one text, by transformers alone."""
    ids = torch.tensor([text.ids])
    with torch.no_grad():
        log_p = model.network(ids).logits[0].double().log_softmax(dim=1)
    at = torch.arange(text.start, len(text.ids))
    found: np.ndarray[Any, Any] = log_p[at - 1, ids[0, at]].numpy()
    return found


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of every pass."""
    ran: list[int] = []
    hidden = CausalModel.hidden

    def counted(model: CausalModel, ids: torch.Tensor, *more: Any) -> torch.Tensor:
        ran.append(ids.numel())
        return hidden(model, ids, *more)

    monkeypatch.setattr(CausalModel, "hidden", counted)
    return ran


def test_completions_of_a_prompt_read_as_alone_in_fewer_tokens(bundled: Opened, passes: list[int]) -> None:
    model = bundled("base")
    shared = score(model, TEXTS, share=True)
    together = sum(passes)
    passes.clear()
    apart = score(model, TEXTS)
    assert together < 0.6 * sum(passes)
    for text, one, other in zip(TEXTS, shared, apart, strict=True):
        assert np.allclose(one.log_p, by_hand(model, text), atol=5e-5)
        assert np.allclose(one.entropy, other.entropy, atol=5e-5)
        assert (one.rank == other.rank).all()


def test_a_model_that_carries_a_state_along_is_given_texts_one_by_one(
    bundled: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    blind = bundled("base")
    hidden = CausalModel.hidden
    # Such a model looks at whatever stands before, and at no mask.
    monkeypatch.setattr(CausalModel, "hidden", lambda m, ids, mask, positions=None: hidden(m, ids, None))
    for text, one in zip(TEXTS, score(blind, TEXTS, share=True), strict=True):
        assert np.allclose(one.log_p, by_hand(blind, text), atol=5e-5)


def test_a_model_that_takes_no_such_mask_is_given_texts_one_by_one(
    bundled: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = CausalModel.hidden

    def refusing(model: CausalModel, ids: torch.Tensor, mask: Any, positions: Any = None) -> torch.Tensor:
        if mask is not None:
            raise ValueError("no mask of four dimensions")
        return hidden(model, ids, mask, positions)

    monkeypatch.setattr(CausalModel, "hidden", refusing)
    found = score(bundled("base"), TEXTS, share=True)
    assert np.allclose(found[3].log_p, by_hand(bundled("base"), TEXTS[3]), atol=5e-5)


def test_short_prompts_are_not_worth_a_mask() -> None:
    opening = [Scored((1, *range(2, 30 + n)), 1) for n in range(4)]
    assert packed(opening, 1024) == [[0], [1], [2], [3]]


def test_rows_are_not_longer_than_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "WORTH", 0.0)
    rows = packed(TEXTS, 32)
    assert sorted(i for row in rows for i in row) == list(range(len(TEXTS)))
    assert all(len(row) == 1 or len(Pack(tuple(TEXTS[i] for i in row)).ids) <= 32 for row in rows)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5)), min_size=1, max_size=12))
def test_a_row_holds_what_each_text_would_be_predicted_from(drawn: list[tuple[int, int]]) -> None:
    texts = [Scored((*(9, 8, 7)[: which + 1], *range(length)), which + 1) for which, length in sorted(drawn)]
    for _, group in groupby(texts, key=lambda text: text.prefix):
        own = tuple(group)
        pack = Pack(own)
        places = iter(pack.predicting)
        for number, text in enumerate(own, start=1):
            for at in text.positions:
                place = next(places)
                assert (pack.ids[place], pack.positions[place]) == (text.ids[at], at)
                assert pack.owners[place] in (0, number)


def test_rows_that_are_off_by_more_than_rounding_are_not_used(
    bundled: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "SAME", 0.0)
    apart = score(bundled("base"), TEXTS)
    for one, other in zip(score(bundled("base"), TEXTS, share=True), apart, strict=True):
        assert (one.log_p == other.log_p).all()
