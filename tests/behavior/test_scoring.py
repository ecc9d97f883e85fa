"""Scores and comparisons against transformers' own logits in float64, and against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckptaudit.behavior import batching
from ckptaudit.behavior.batching import by_length, in_batches
from ckptaudit.behavior.causal_models import CausalModel
from ckptaudit.behavior.comparison import ComparedText, at_positions, compare, mean_kl
from ckptaudit.behavior.padding import padding_is_seen, rounding_floor
from ckptaudit.behavior.scoring import Scored, entropy_of, score
from ckptaudit.errors import MeasurementError

Opened = Callable[[str], CausalModel]
Encoded = Callable[[str], list[Scored]]


def log_softmax(model: CausalModel, text: Scored) -> Any:
    """Slowly and by itself: one text, no padding, float64 NumPy."""
    with torch.no_grad():
        logits = model.network(torch.tensor([text.ids])).logits[0].double().numpy()
    z = logits[text.start - 1 : -1]
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("which", ["task", "retain"])
def test_scores_are_those_of_transformers(bundled: Opened, encoded: Encoded, which: str) -> None:
    model, texts = bundled("rlvr"), encoded(which)
    for text, found in zip(texts, score(model, texts), strict=True):
        lp = log_softmax(model, text)
        own = lp[np.arange(len(lp)), list(text.ids[text.start :])]
        assert np.allclose(found.log_p, own, atol=2e-5)
        assert (found.rank == (lp > own[:, None]).sum(axis=1) + 1).all()
        assert np.allclose(found.entropy, -(np.exp(lp) * lp).sum(axis=1), atol=2e-5)


@pytest.mark.parametrize("which", ["task", "retain"])
def test_comparisons_are_those_of_a_slow_script(bundled: Opened, encoded: Encoded, which: str) -> None:
    base, tuned, texts = bundled("base"), bundled("rlvr"), encoded(which)
    for text, found in zip(texts, compare(base, tuned, texts), strict=True):
        b, t = log_softmax(base, text), log_softmax(tuned, text)
        p, q = np.exp(t), np.exp(b)
        assert np.allclose(found.kl_tuned_base, (p * (t - b)).sum(axis=1), atol=1e-5)
        assert np.allclose(found.kl_base_tuned, (q * (b - t)).sum(axis=1), atol=1e-5)
        assert np.allclose(found.total_variation, abs(p - q).sum(axis=1) / 2, atol=1e-5)
        top = t.argmax(axis=1)
        assert (found.agree == (top == b.argmax(axis=1))).all()
        rows = np.arange(len(top))
        assert (found.base_rank == (b > b[rows, top][:, None]).sum(axis=1) + 1).all()
        assert np.allclose(found.base.log_p, score(base, [text])[0].log_p, atol=2e-5)
        assert np.allclose(found.tuned.entropy, score(tuned, [text])[0].entropy, atol=2e-5)


@pytest.mark.parametrize(
    ("pair", "task", "retain"), [("rlvr-gentle", 0.0064, 0.00042), ("rlvr", 0.124, 0.0225), ("sft", 4.19, 0.49)]
)
def test_the_bundled_pairs_read_what_was_measured_of_them(
    bundled: Opened, encoded: Encoded, pair: str, task: float, retain: float
) -> None:
    base, tuned = bundled("base"), bundled(pair)
    assert mean_kl(compare(base, tuned, encoded("task"))) == pytest.approx(task, rel=0.01)
    assert mean_kl(compare(base, tuned, encoded("retain"))) == pytest.approx(retain, rel=0.01)


def test_a_model_beside_itself_does_not_differ(bundled: Opened, encoded: Encoded) -> None:
    found = compare(bundled("base"), bundled("base"), encoded("task"))
    assert all((one.kl_tuned_base == 0).all() and one.agree.all() and (one.base_rank == 1).all() for one in found)


def of_two(p: float) -> torch.Tensor:
    return torch.tensor([[math.log(p), math.log(1 - p)]], dtype=torch.float64)


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_two_tokens_have_the_divergence_of_two_coins(b: float, t: float) -> None:
    found = {k: float(v) for k, v in at_positions(of_two(b), of_two(t), torch.tensor([0])).items()}
    coin = t * math.log(t / b) + (1 - t) * math.log((1 - t) / (1 - b))
    back = b * math.log(b / t) + (1 - b) * math.log((1 - b) / (1 - t))
    assert found["kl_tuned_base"] == pytest.approx(coin, abs=1e-12)
    assert found["kl_base_tuned"] == pytest.approx(back, abs=1e-12)
    assert found["total_variation"] == pytest.approx(abs(t - b), abs=1e-12)
    assert found["log_p_base"] == pytest.approx(math.log(b), abs=1e-12)


@given(st.lists(st.floats(-20, 20), min_size=2, max_size=30), st.floats(0.25, 4))
def test_a_scaled_head_has_the_divergence_of_a_temperature(logits: list[float], scale: float) -> None:
    """With t = softmax(s z): KL(t, b) = (s - 1) E_t[z] - log Z_s + log Z_1."""
    z = torch.tensor([logits], dtype=torch.float64)
    t = (scale * z).softmax(dim=1)
    expected = (scale - 1) * float((t * z).sum()) - float((scale * z).logsumexp(1)) + float(z.logsumexp(1))
    assert float(at_positions(z, scale * z, torch.tensor([0]))["kl_tuned_base"]) == pytest.approx(
        expected, abs=1e-9
    )


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=30), st.floats(-1000, 1000))
def test_a_shift_of_all_logits_changes_nothing(logits: list[float], shift: float) -> None:
    z = torch.tensor([logits], dtype=torch.float64)
    found = at_positions(z, z + shift, torch.tensor([0]))
    assert float(found["kl_tuned_base"]) == pytest.approx(0, abs=1e-9)


def test_a_token_that_cannot_be_has_no_part_in_a_divergence() -> None:
    b, t = torch.tensor([[0.0, 1.0, -math.inf]]), torch.tensor([[0.0, 0.0, -math.inf]])
    found = at_positions(b, t, torch.tensor([0]))
    assert all(bool(column.isfinite().all()) for column in found.values())
    assert float(entropy_of(t.log_softmax(dim=1))) == pytest.approx(math.log(2))


def test_what_the_base_rules_out_is_infinitely_far() -> None:
    found = at_positions(torch.tensor([[0.0, -math.inf]]), torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
    assert math.isinf(float(found["kl_tuned_base"]))


def test_longer_vocabularies_are_cut_to_the_common_ids(bundled: Opened, encoded: Encoded) -> None:
    from dataclasses import replace

    shorter = replace(bundled("rlvr"), vocabulary=90)
    text = Scored(tuple(token % 90 for token in encoded("task")[0].ids), 3)
    found = compare(bundled("base"), shorter, [text])[0]
    b, t = (log_softmax(m, text)[:, :90] for m in (bundled("base"), bundled("rlvr")))
    b, t = (x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in (b, t))
    assert np.allclose(found.kl_tuned_base, (np.exp(t) * (t - b)).sum(axis=1), atol=1e-5)


def test_batches_and_chunks_change_nothing(
    bundled: Opened, encoded: Encoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = encoded("task")
    together = compare(bundled("base"), bundled("rlvr"), texts)
    monkeypatch.setattr("ckptaudit.behavior.scoring.CHUNK_BYTES", 8 * 100 * 3)
    monkeypatch.setattr("ckptaudit.behavior.scoring.LEAST", 1)
    pieces = compare(bundled("base"), bundled("rlvr"), texts)
    alone = compare(bundled("base"), bundled("rlvr"), texts, alike=True)
    for name in (f.name for f in fields(ComparedText)):
        for one, two, three in zip(together, pieces, alone, strict=True):
            assert np.allclose(getattr(one, name), getattr(two, name), atol=1e-5)
            assert np.allclose(getattr(one, name), getattr(three, name), atol=1e-5)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 300), st.booleans())
def test_batches_hold_every_text_once_within_the_budget(lengths: list[int], tokens: int, alike: bool) -> None:
    texts = [(0,) * length for length in lengths]
    batches = by_length(texts, tokens, alike=alike)
    assert sorted(i for batch in batches for i in batch) == list(range(len(texts)))
    for batch in batches:
        own = [lengths[i] for i in batch]
        assert len(batch) == 1 or len(batch) * max(own) <= tokens
        assert not alike or len(set(own)) == 1


def test_a_batch_that_does_not_fit_is_halved() -> None:
    def run(batch: Any) -> list[int]:
        if len(batch) > 2:
            raise torch.OutOfMemoryError
        tried.append(len(batch))
        return [10 * i for i in batch]

    tried: list[int] = []
    assert dict(in_batches([[0, 1, 2, 3, 4]], run)) == {i: 10 * i for i in range(5)}
    assert max(tried) == 2


def test_a_text_that_does_not_fit_alone_is_said() -> None:
    def run(batch: Any) -> list[int]:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    with pytest.raises(MeasurementError, match="does not fit the memory"):
        list(in_batches([[0, 1]], run))
    with pytest.raises(RuntimeError, match="another fault"):
        list(in_batches([[0]], lambda batch: (_ for _ in ()).throw(RuntimeError("another fault"))))


def test_the_floor_is_rounding_and_no_more(bundled: Opened, encoded: Encoded) -> None:
    from ckptaudit.behavior.causal_models import open_model
    from ckptaudit.checkpoints import open_checkpoint
    from tests.behavior.conftest import CPU
    from tests.conftest import FIXTURES

    base = open_checkpoint(FIXTURES / "base")
    fine = rounding_floor(bundled("base"), encoded("retain"))
    coarse = rounding_floor(open_model(base, base, CPU, "bfloat16"), encoded("retain"))
    assert 0 <= fine < 1e-9
    assert 10 * fine <= coarse < 1e-3


def test_padding_that_is_seen_is_noticed(bundled: Opened, encoded: Encoded) -> None:
    class Looking(CausalModel):
        """Its hidden states hang on how wide the batch is."""

        def hidden(self, ids: Any, mask: Any, positions: Any = None) -> Any:
            return super().hidden(ids, mask, positions) * (1 + 0.1 * ids.shape[1])

    own = bundled("base")
    looking = Looking(**{f.name: getattr(own, f.name) for f in fields(own)})
    assert not padding_is_seen(own, encoded("task"))
    assert padding_is_seen(looking, encoded("task"))
    assert batching.TOKENS > 0
