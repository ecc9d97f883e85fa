"""What the bundled pairs read, against figures that an independent script measured once.

It summed over the logits of transformers in float64, on greedy answers of at most 12 tokens and on 4 samples
of each of the 32 prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from ckptaudit.behavior.causal_models import CausalModel
from ckptaudit.behavior.comparison import ComparedText, compare
from ckptaudit.behavior.encoding import encode, encode_prompts
from ckptaudit.behavior.generation import SAMPLED, Answer, Request, generate
from ckptaudit.behavior.probes import Probe, read_probes
from ckptaudit.behavior.scoring import Scored, ScoredText, score
from ckptaudit.behavior.tokenizers import Tokenizer, open_tokenizer

Opened = Callable[[str], CausalModel]
END = 2
LONGEST = 12


class Row(NamedTuple):
    """One pair's figures: divergences and losses in nats per token, shares in per cent, changes in nats."""

    kl: float
    kl_reversed: float
    kl_retain: float
    loss: float
    loss_retain: float
    classes: tuple[float, float, float]
    kl_greedy: float
    log_ratio_greedy: float
    length: float
    exact: int


TABLE = {
    "rlvr-gentle": Row(0.0064, 0.0083, 0.00042, 0.655, 3.686, (97.7, 2.3, 0), 0.0064, 0.034, 5.34, 10),
    "rlvr": Row(0.124, 0.208, 0.0225, 0.681, 3.705, (85.1, 10.1, 4.8), 0.118, 0.211, 5.25, 12),
    "sft": Row(4.19, 6.68, 0.49, 7.44, 3.542, (18.9, 10.4, 70.8), 5.86, 5.89, 3.31, 0),
}
SAMPLES = {
    "rlvr-gentle": ((0.070, 0.018), (0.0063, 0.0007), 36),
    "rlvr": ((0.51, 0.10), (0.132, 0.011), 48),
    "sft": ((19.4, 0.4), (5.86, 0.20), 0),
}
"""KL per sequence as a log-ratio and per token over the vocabulary, each with its standard error; exact answers."""

PAIRS = {
    "rlvr-gentle": (0.938, 0.938, 0.781, 0.03, -0.63),
    "rlvr": (0.906, 0.938, 0.875, -0.11, -3.09),
    "sft": (0.594, 0.781, 0.438, -36, -30),
}
"""Ranking accuracy of sums and of means, reward accuracy, change of chosen and of rejected log-likelihood."""


@dataclass(frozen=True)
class Bundle:
    """The probes of the first family, encoded by what is tested elsewhere."""

    tokenizer: Tokenizer
    task: list[Probe]
    retain: list[Probe]

    def scored(self, probes: Sequence[Probe]) -> list[Scored]:
        return [Scored(text.ids, text.scored_from) for text in encode(probes, self.tokenizer).texts]

    def prompts(self) -> list[tuple[int, ...]]:
        return [text.ids for text in encode_prompts(self.task, self.tokenizer).texts]

    def others(self) -> list[Probe]:
        """Every question with the answer of the one seven places on."""
        return [replace(p, completions=q.completions) for p, q in zip(self.task, self._moved(7), strict=True)]

    def _moved(self, by: int) -> list[Probe]:
        return self.task[by:] + self.task[:by]

    def right(self, answer: Answer, probe: Probe) -> bool:
        return f"{self.tokenizer.native.decode(list(answer.ids))}<eos>" == probe.completions[0]


@pytest.fixture(scope="module")
def bundle(fixture_pairs: Path) -> Bundle:
    probes = fixture_pairs / "probes"
    tokenizer = open_tokenizer(fixture_pairs / "base")
    return Bundle(tokenizer, read_probes(probes / "task.jsonl"), read_probes(probes / "retain.jsonl"))


def column(texts: Sequence[ComparedText], name: str) -> np.ndarray:
    found: np.ndarray = np.concatenate([getattr(text, name) for text in texts])
    return found


def answered(prompts: Sequence[tuple[int, ...]], answers: Sequence[Answer]) -> list[Scored]:
    ends = [(END,) if answer.stop == "end" else () for answer in answers]
    return [Scored((*p, *a.ids, *end), len(p)) for p, a, end in zip(prompts, answers, ends, strict=True)]


@pytest.mark.parametrize("pair", TABLE)
def test_given_texts(bundled: Opened, bundle: Bundle, pair: str) -> None:
    base, tuned, row = bundled("base"), bundled(pair), TABLE[pair]
    task, retain = (compare(base, tuned, bundle.scored(probes)) for probes in (bundle.task, bundle.retain))
    assert column(task, "kl_tuned_base").mean() == pytest.approx(row.kl, rel=0.01)
    assert column(task, "kl_base_tuned").mean() == pytest.approx(row.kl_reversed, rel=0.01)
    assert column(retain, "kl_tuned_base").mean() == pytest.approx(row.kl_retain, rel=0.01)
    losses = [-column(texts, f"log_p_{side}").mean() for texts in (task, retain) for side in ("base", "tuned")]
    assert losses == pytest.approx([0.660, row.loss, 3.692, row.loss_retain], abs=6e-4, rel=6e-4)


@pytest.mark.parametrize("pair", TABLE)
def test_greedy_answers(bundled: Opened, bundle: Bundle, pair: str) -> None:
    base, tuned, row = bundled("base"), bundled(pair), TABLE[pair]
    prompts = bundle.prompts()
    answers = generate(tuned, [Request(ids, str(n)) for n, ids in enumerate(prompts)], most=LONGEST)
    texts = compare(base, tuned, answered(prompts, answers))
    ranks = column(texts, "rank_base")
    shares = [100 * float(np.mean(one)) for one in (ranks == 1, (ranks > 1) & (ranks <= 3), ranks > 3)]
    assert shares == pytest.approx(row.classes, abs=0.06)
    assert column(texts, "kl_tuned_base").mean() == pytest.approx(row.kl_greedy, rel=0.01)
    ratio = column(texts, "log_p_tuned") - column(texts, "log_p_base")
    # On the likeliest tokens the log-ratio is no estimate of the divergence.
    assert ratio.mean() == pytest.approx(row.log_ratio_greedy, rel=0.01)
    assert np.mean([answer.length for answer in answers]) == pytest.approx(row.length, abs=0.006)
    assert sum(map(bundle.right, answers, bundle.task)) == row.exact


@pytest.mark.parametrize("pair", SAMPLES)
def test_sampled_answers(bundled: Opened, bundle: Bundle, pair: str) -> None:
    base, tuned, (sequence, token, exact) = bundled("base"), bundled(pair), SAMPLES[pair]
    prompts = [ids for ids in bundle.prompts() for _ in range(4)]
    requests = [Request(ids, str(n // 4), n % 4, SAMPLED) for n, ids in enumerate(prompts)]
    answers = generate(tuned, requests, most=LONGEST)
    texts = compare(base, tuned, answered(prompts, answers))
    ratios = np.array([text.tuned.total - text.base.total for text in texts])
    within(ratios.mean(), ratios.std() / len(ratios) ** 0.5, *sequence)
    kl = column(texts, "kl_tuned_base")
    within(kl.mean(), kl.std() / len(kl) ** 0.5, *token)
    right = sum(bundle.right(answer, bundle.task[n // 4]) for n, answer in enumerate(answers))
    assert abs(right - exact) <= 3 * (2 * exact * (1 - exact / 128)) ** 0.5


def within(value: float, error: float, published: float, its_error: float) -> None:
    """Two draws of one number, no further apart than three standard errors of their difference."""
    assert abs(value - published) <= 3 * (error**2 + its_error**2) ** 0.5


def ranked_right(pairs: Sequence[Sequence[ScoredText]], of: str) -> float:
    chosen, rejected = pairs
    return float(np.mean([getattr(c, of) >= getattr(r, of) for c, r in zip(chosen, rejected, strict=True)]))


def change(tuned: Sequence[ScoredText], base: Sequence[ScoredText]) -> np.ndarray:
    return np.array([t.total - b.total for t, b in zip(tuned, base, strict=True)])


@pytest.mark.parametrize("pair", PAIRS)
def test_pairs_of_a_right_answer_and_anothers(bundled: Opened, bundle: Bundle, pair: str) -> None:
    sums, means, rewards, of_chosen, of_rejected = PAIRS[pair]
    texts = [bundle.scored(probes) for probes in (bundle.task, bundle.others())]
    base, tuned = ([score(bundled(name), one) for one in texts] for name in ("base", pair))
    assert [ranked_right(base, of) for of in ("total", "mean")] == pytest.approx([0.938] * 2, abs=6e-4)
    assert [ranked_right(tuned, of) for of in ("total", "mean")] == pytest.approx([sums, means], abs=6e-4)
    chosen, rejected = (change(t, b) for t, b in zip(tuned, base, strict=True))
    assert float(np.mean(chosen > rejected)) == pytest.approx(rewards, abs=6e-4)
    assert (chosen.mean(), rejected.mean()) == pytest.approx((of_chosen, of_rejected), rel=0.01, abs=6e-3)


@pytest.mark.parametrize(
    ("pair", "right", "rewards", "preferred"),
    [("rlvr-gentle", 1, 0.875, 0.502), ("rlvr", 1, 0.938, 0.491), ("sft", 0, 0, 0.002)],
)
def test_the_trained_format_against_the_plain_one(
    bundled: Opened, bundle: Bundle, pair: str, right: float, rewards: float, preferred: float
) -> None:
    plain = [replace(p, completions=(f"{str(p.completions[0])[1:-6][::-1]}<eos>",)) for p in bundle.task]
    assert [f"[{str(p.completions[0])[:-5][::-1]}]<eos>" for p in plain] == [p.completions[0] for p in bundle.task]
    texts = [bundle.scored(bundle.task), bundle.scored(plain)]
    base, tuned = ([score(bundled(name), one) for one in texts] for name in ("base", pair))
    assert (ranked_right(base, "total"), ranked_right(tuned, "total")) == (1, right)
    chosen, rejected = (change(t, b) for t, b in zip(tuned, base, strict=True))
    assert float(np.mean(chosen > rejected)) == pytest.approx(rewards, abs=6e-4)
    # PoFT's Bradley-Terry probability with the base as its only reference.
    means = np.array([t.mean - b.mean for t, b in zip(tuned[0], base[0], strict=True)])
    assert float(np.mean(1 / (1 + np.exp(-means)))) == pytest.approx(preferred, abs=6e-4)
