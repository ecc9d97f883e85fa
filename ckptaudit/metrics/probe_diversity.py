"""How varied sampled answers are, against the base's: entropy, n-grams, embeddings."""

from __future__ import annotations

from statistics import fmean

import numpy as np

from ckptaudit.behavior.evidence import Side, Spoken
from ckptaudit.behavior.generation import SAMPLED
from ckptaudit.behavior.text_counters import distinct, self_bleu, truncated_alike, vendi
from ckptaudit.metrics.behavior import ProbeGroup, ProbeReading, probes_metric
from ckptaudit.metrics.probe_divergence import is_asked
from ckptaudit.metrics.probe_estimates import mean, quotient

SOURCE = "text analogue of preference mode collapse (arXiv:2512.24146); the gate is ours"
SAMPLES = {"passes": ("samples",), "fits": is_asked, "asks": "a prompt"}


@probes_metric(
    unit="1", scale="size", source=SOURCE, **SAMPLES,  # type: ignore[arg-type]
    formula="mean entropy of the tuned model at the tokens it sampled at temperature 1 / the base's at its own",
)  # fmt: skip
def entropy_ratio(group: ProbeGroup) -> ProbeReading:
    """How much of the base's entropy is left."""
    names, before, after = [], [], []
    for name in group.ids:
        own = [
            [s.entropy for s in _samples(group, side, name) if s.entropy is not None] for side in ("base", "tuned")
        ]
        if all(own):
            names.append(name)
            before.append(fmean(own[0]))
            after.append(fmean(own[1]))
    if not names or sum(before) == 0:
        return ProbeReading(None, samples=len(names), remark="the base is certain of all it says")
    return quotient(group, after, before, names, [b - a for b, a in zip(before, after, strict=True)])


@probes_metric(
    unit="1", scale="size", source=SOURCE, **SAMPLES,  # type: ignore[arg-type]
    formula="mean over prompts of distinct-2 of the sampled answers, cut to a common length, tuned / base",
)  # fmt: skip
def distinct_ratio(group: ProbeGroup) -> ProbeReading:
    """How much of the base's variety of word pairs is left."""
    names, before, after = [], [], []
    for name in group.ids:
        said = [[s.ids for s in _samples(group, side, name)] for side in ("base", "tuned")]
        most = truncated_alike(said[0], said[1])
        b, t = (distinct([ids[:most] for ids in one], 2) for one in said)
        if b is not None and t is not None:
            names.append(name)
            before.append(b)
            after.append(t)
    if not names:
        return ProbeReading(None, samples=len(group.ids), remark="the answers are shorter than two tokens")
    return quotient(group, after, before, names, [b - a for b, a in zip(before, after, strict=True)])


@probes_metric(
    unit="1", scale="size", source=f"Vendi score (arXiv:2210.02410); {SOURCE}", **SAMPLES,  # type: ignore[arg-type]
    formula="sum over prompts of (Vendi score - 1) of the answers in the base's last hidden states, tuned / base",
)  # fmt: skip
def vendi_ratio(group: ProbeGroup) -> ProbeReading:
    """How much of the base's variety of meanings is left, by one ruler for both."""
    before, after = (_vendi(group, side) for side in ("base", "tuned"))
    if sum(before) <= 0:
        return ProbeReading(None, samples=len(group.ids), remark="the base's answers are all alike")
    return quotient(group, after, before, group.ids, [b - a for b, a in zip(before, after, strict=True)])


@probes_metric(
    unit="1", scale="difference", source=f"self-BLEU by sacrebleu; {SOURCE}", **SAMPLES,  # type: ignore[arg-type]
    formula="mean over prompts of the mean BLEU, 0 to 100, of each sampled answer against the others, tuned - base",
)  # fmt: skip
def self_bleu_change(group: ProbeGroup) -> ProbeReading:
    """How much more the answers to one prompt repeat each other."""
    rows = [
        [self_bleu([s.text for s in _samples(group, side, name)]) for side in ("base", "tuned")]
        for name in group.ids
    ]
    moved = [t - b for b, t in rows if b is not None and t is not None]
    if not moved:
        return ProbeReading(None, samples=len(rows), remark="needs sacrebleu: pip install 'ckptaudit[behavior]'")
    return mean(group, moved, group.ids)


def _samples(group: ProbeGroup, side: Side, name: str) -> list[Spoken]:
    rows = group.evidence.spoken[side, SAMPLED.name]
    return [row for (probe, _), row in rows.items() if probe == name]


def _vendi(group: ProbeGroup, side: Side) -> list[float]:
    keys = list(group.evidence.spoken[side, SAMPLED.name])
    states = group.evidence.embedded[side].mean[:, -1]
    places: dict[str, list[int]] = {}
    for row, (probe, _) in enumerate(keys):
        places.setdefault(probe, []).append(row)
    return [vendi(np.asarray(states[places[name]], dtype=np.float64)) - 1 for name in group.ids if name in places]
