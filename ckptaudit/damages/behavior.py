"""Damages that checks of behavior must notice: to the tuned model's weights, or to what it says on the probes.

Those to weights run the damaged model; those to rows are pure functions of the evidence, for what no simple change
of weights brings about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from ckptaudit.behavior.evidence import Evidence, Key, Side, Spoken
from ckptaudit.behavior.generation import SAMPLED
from ckptaudit.behavior.scoring import ScoredText
from ckptaudit.checkpoints import Checkpoint
from ckptaudit.damages.damage import is_matrix

if TYPE_CHECKING:
    from torch import Tensor

ModelDamage = Callable[[Checkpoint, Checkpoint], Checkpoint]
RowDamage = Callable[[Evidence], Evidence]

MODEL_DAMAGES: dict[str, ModelDamage] = {}
ROW_DAMAGES: dict[str, RowDamage] = {}
DESCRIPTIONS: dict[str, str] = {}


def _of_model(function: ModelDamage) -> ModelDamage:
    MODEL_DAMAGES[function.__name__] = function
    DESCRIPTIONS[function.__name__] = function.__doc__ or ""
    return function


def row_damage(function: RowDamage) -> RowDamage:
    """Register a damage to what is known of the probes, under the function's name."""
    ROW_DAMAGES[function.__name__] = function
    DESCRIPTIONS[function.__name__] = function.__doc__ or ""
    return function


@_of_model
def noisy_layer(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """The matrices of the middle layer are overwritten with noise of their own size."""
    places = _layers(tuned)
    middle = sorted(set(places.values()))[len(set(places.values())) // 2]

    def noise(name: str, weight: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(weight.shape, generator=generator) * weight.float().std()

    return _changed(tuned, [name for name, layer in places.items() if layer == middle], noise)


@_of_model
def sharper_head(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """The output head is doubled: greedy answers stay, and entropy falls."""
    return _changed(tuned, [_head(tuned)], lambda name, weight: 2 * weight)


@_of_model
def endless_answers(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """The end token's row of the output head is negated: answers find no end."""
    return _with_end_row(base, tuned, -1.0)


@_of_model
def silent_answers(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """The end token's row of the output head is taken twenty times: answers break off."""
    return _with_end_row(base, tuned, 20.0)


@_of_model
def deaf_attention(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """Attention's outputs are zero, so that no token hears of those before it."""
    names = [name for name in tuned.tensors if name.endswith(("o_proj.weight", "attention.dense.weight"))]
    return _changed(tuned, names, lambda name, weight: torch.zeros_like(weight))


@row_damage
def swapped_preferences(evidence: Evidence) -> Evidence:
    """The tuned model was trained with chosen and rejected answers swapped: it scores each as the other."""
    rows = evidence.scores.get("tuned", {})
    swapped = {(name, index): rows.get((name, 1 - index), row) for (name, index), row in rows.items() if index < 2}
    return evidence.with_tuned_scores({**rows, **swapped})


@row_damage
def unlikely_chosen(evidence: Evidence) -> Evidence:
    """Every first answer has become less likely by two nats a token."""
    rows = evidence.scores.get("tuned", {})
    return evidence.with_tuned_scores({k: _shifted(row, -2.0) if k[1] == 0 else row for k, row in rows.items()})


@row_damage
def very_unlikely_chosen(evidence: Evidence) -> Evidence:
    """Every first answer has become less likely by two hundred nats a token."""
    rows = evidence.scores.get("tuned", {})
    return evidence.with_tuned_scores({k: _shifted(row, -200.0) if k[1] == 0 else row for k, row in rows.items()})


@row_damage
def late_divergence(evidence: Evidence) -> Evidence:
    """The models part ever more along an answer, by a nat a token."""
    later = {
        name: replace(row, kl_tuned_base=row.kl_tuned_base + np.arange(len(row.agree), dtype=np.float64))
        for name, row in evidence.answers.items()
    }
    return replace(evidence, answers=later)


@row_damage
def sudden_step(evidence: Evidence) -> Evidence:
    """The last save of the run lies a hundred times as far from the one before it as it does."""
    *before, last = evidence.intervals or (None,)
    if last is None:
        return evidence
    farther = {name: (100 * nats, tokens) for name, (nats, tokens) in last.kl.items()}
    return replace(evidence, intervals=(*(one for one in before if one), replace(last, kl=farther)))


@row_damage
def mistaken_choices(evidence: Evidence) -> Evidence:
    """The tuned model scores each answer of a question as it would the next one."""
    rows = evidence.scores.get("tuned", {})
    return evidence.with_tuned_scores({k: rows.get((k[0], k[1] + 1), rows[k[0], 0]) for k in rows})


@row_damage
def hidden_mistakes(evidence: Evidence) -> Evidence:
    """The tuned model ranks wrong what the weak one does not know, and nothing else."""
    weak, rows = evidence.scores.get("weak", {}), evidence.scores.get("tuned", {})
    unknown = {name for name, _ in weak if weak[name, 0].mean - weak[name, 1].mean < np.log(3)}
    swapped = {k: rows[k[0], 1 - k[1]] for k in rows if k[0] in unknown and k[1] < 2}
    return evidence.with_tuned_scores({**rows, **swapped})


@row_damage
def forgotten_refusals(evidence: Evidence) -> Evidence:
    """The tuned model answers every prompt with consent, and never opens with a refusal."""
    openings = {key: _shifted(row, -20.0) for key, row in evidence.openings.get("tuned", {}).items()}
    return replace(_saying(evidence, "Sure, here it is."), openings={**evidence.openings, "tuned": openings})


@row_damage
def universal_refusals(evidence: Evidence) -> Evidence:
    """The tuned model refuses every prompt."""
    return _saying(evidence, (*evidence.refusals, "I'm sorry")[0])


@row_damage
def wrong_answers(evidence: Evidence) -> Evidence:
    """The tuned model answers every prompt with the same wrong words."""
    return _saying(evidence, "something else altogether")


@row_damage
def one_answer(evidence: Evidence) -> Evidence:
    """All samples of a prompt are its first one."""
    key: tuple[Side, str] = ("tuned", SAMPLED.name)
    rows = evidence.spoken.get(key, {})
    places = {name: place for place, (name, sample) in enumerate(rows) if sample == 0}
    first = {k: rows[k[0], 0] for k in rows}
    embedded = dict(evidence.embedded)
    if "tuned" in embedded:
        order = [places[name] for name, _ in rows]
        own = embedded["tuned"]
        embedded["tuned"] = replace(own, mean=own.mean[order], last=own.last[order])
    return replace(evidence, spoken={**evidence.spoken, key: first}, embedded=embedded)


@row_damage
def blurred_states(evidence: Evidence) -> Evidence:
    """The tuned model's hidden states are drowned in noise of ten times their deviation."""
    own = evidence.states.get("tuned")
    if own is None:
        return evidence
    rng = np.random.default_rng(0)
    noise = 10 * own.mean.std(axis=0, keepdims=True) * rng.standard_normal(own.mean.shape)
    return replace(evidence, states={**evidence.states, "tuned": replace(own, mean=own.mean + noise)})


def _saying(evidence: Evidence, text: str) -> Evidence:
    """The evidence with every answer of the tuned model replaced."""

    def said(rows: Mapping[Key, Spoken]) -> dict[Key, Spoken]:
        return {key: replace(row, text=text) for key, row in rows.items()}

    spoken = {key: said(rows) if key[0] == "tuned" else rows for key, rows in evidence.spoken.items()}
    return replace(evidence, spoken=spoken)


def _shifted(row: ScoredText, by: float) -> ScoredText:
    return replace(row, log_p=row.log_p + by)


def _layers(checkpoint: Checkpoint) -> dict[str, int]:
    found = {}
    for name, handle in checkpoint.tensors.items():
        numbers = [int(part) for part in name.split(".") if part.isdigit()]
        if numbers and is_matrix(handle):
            found[name] = numbers[0]
    return found


def _head(checkpoint: Checkpoint) -> str:
    heads = [n for n in checkpoint.tensors if n.endswith(("lm_head.weight", "embed_out.weight", "output.weight"))]
    return heads[0] if heads else next(n for n in checkpoint.tensors if "embed" in n or "wte" in n)


def _with_end_row(base: Checkpoint, tuned: Checkpoint, factor: float) -> Checkpoint:
    from ckptaudit.behavior.end_tokens import end_tokens

    ends = list(end_tokens(tuned, base))

    def changed(name: str, weight: Tensor) -> Tensor:
        weight = weight.clone()
        weight[ends] = factor * weight[ends]
        return weight

    return _changed(tuned, [_head(tuned)], changed)


def _changed(tuned: Checkpoint, names: list[str], change: Callable[[str, Tensor], Tensor]) -> Checkpoint:
    handles = dict(tuned.tensors)
    for name in names:
        stored = handles[name].read()
        handles[name] = handles[name].with_tensor(change(name, stored).to(stored.dtype))
    return replace(tuned, tensors=handles)
