"""How far the tuned model is from its base on text, token by token: divergences, ranks, agreement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ckptaudit.behavior.comparison import ComparedText
from ckptaudit.behavior.intervals import Interval
from ckptaudit.behavior.probe import Probe
from ckptaudit.behavior.scoring import Array
from ckptaudit.metrics.behavior import FEWEST, ProbeGroup, ProbeReading, probes_metric, with_remark
from ckptaudit.metrics.probe_estimates import mean, per_token, quotient

RAZOR = "RL's Razor (arXiv:2509.04259); figures of finished checkpoints in arXiv:2507.00432"
URIAL = "arXiv:2312.01552, sections 2.1 and 2.2"

FLOORS = 3
"""Times the floor below which a divergence is not told apart from rounding."""

SAVES = 6
"""Last saves whose divergence from the one before is told."""

EARLY = 5
"""Positions that count as the first ones."""


def is_text(probe: Probe) -> bool:
    """Whether one given text of it is scored by itself."""
    return probe.kind in ("text", "completion", "labelled")


def is_asked(probe: Probe) -> bool:
    """Whether the models answer it."""
    return probe.kind in ("prompt", "completion", "labelled")


GIVEN = {"passes": ("texts",), "fits": is_text, "asks": "text, or prompt and completion", "alike": "texts"}
ANSWERED = {"passes": ("answers",), "fits": is_asked, "asks": "a prompt", "alike": "prompt"}


@probes_metric(
    unit="nats", scale="size", source=RAZOR, **GIVEN,  # type: ignore[arg-type]
    formula="mean over scored tokens of sum_v t(v) log(t(v) / b(v)), t tuned and b base after the same tokens",
)  # fmt: skip
def kl_tuned_base(group: ProbeGroup) -> ProbeReading:
    """KL divergence of the tuned model from the base on the probes' own text, per token."""
    return _divergence(group, group.evidence.texts, "kl_tuned_base")


@probes_metric(
    unit="nats", scale="size", source=RAZOR, **GIVEN,  # type: ignore[arg-type]
    formula="mean over scored tokens of sum_v b(v) log(b(v) / t(v))",
)  # fmt: skip
def kl_base_tuned(group: ProbeGroup) -> ProbeReading:
    """KL divergence of the base from the tuned model on the probes' own text, per token."""
    return _divergence(group, group.evidence.texts, "kl_base_tuned")


@probes_metric(
    unit="nats", scale="size", source=RAZOR, **ANSWERED,  # type: ignore[arg-type]
    formula="mean over the tokens of the tuned model's greedy answers of sum_v t(v) log(t(v) / b(v))",
)  # fmt: skip
def kl_on_answers(group: ProbeGroup) -> ProbeReading:
    """KL divergence of the tuned model from the base on what the tuned model answers, per token."""
    return _divergence(group, group.evidence.answers, "kl_tuned_base")


@probes_metric(
    unit="nats", scale="size", source=RAZOR, **ANSWERED,  # type: ignore[arg-type]
    formula="mean over answers of the sum over tokens of sum_v t(v) log(t(v) / b(v)); greedy answers",
)  # fmt: skip
def kl_per_answer(group: ProbeGroup) -> ProbeReading:
    """KL divergence of the tuned model from the base, summed over an answer."""
    rows, names = _rows(group, group.evidence.answers)
    if not rows:
        return _silent(group)
    totals = [float(row.kl_tuned_base.sum()) for row in rows]
    return mean(group, totals, names)


@probes_metric(
    unit="1", scale="size", source="the definition is standard",
    formula="mean over scored tokens of 1/2 sum_v |t(v) - b(v)|", **GIVEN,  # type: ignore[arg-type]
)  # fmt: skip
def total_variation(group: ProbeGroup) -> ProbeReading:
    """Total variation distance of the two models' next tokens."""
    return _mean_of(group, group.evidence.texts, "total_variation")


@probes_metric(
    unit="1", scale="share", source="the definition is standard", **GIVEN,  # type: ignore[arg-type]
    formula="share of scored tokens at which both models have the same most likely token",
)  # fmt: skip
def top1_agreement(group: ProbeGroup) -> ProbeReading:
    """How often both models would say the same next token."""
    return _mean_of(group, group.evidence.texts, "agree")


@probes_metric(
    unit="1", scale="share", source=URIAL, **ANSWERED,  # type: ignore[arg-type]
    formula="share of the tuned model's greedy tokens whose rank in the base is 1",
)  # fmt: skip
def unshifted_share(group: ProbeGroup) -> ProbeReading:
    """How many of the tuned model's tokens the base would have said too."""
    return _of_ranks(group, lambda rank: rank == 1)


@probes_metric(
    unit="1", scale="share", source=URIAL, **ANSWERED,  # type: ignore[arg-type]
    formula="share of the tuned model's greedy tokens whose rank in the base is above 3",
)  # fmt: skip
def shifted_share(group: ProbeGroup) -> ProbeReading:
    """How many of the tuned model's tokens the base would hardly have said."""
    return _of_ranks(group, lambda rank: rank > 3)


@probes_metric(
    unit="1", scale="size", source="arXiv:2507.00432, token rank shift", **ANSWERED,  # type: ignore[arg-type]
    formula="mean over the tuned model's greedy tokens of (rank in the base - rank in the tuned model)",
)  # fmt: skip
def rank_shift(group: ProbeGroup) -> ProbeReading:
    """How far down the base's list the tuned model's tokens stand."""
    rows, names = _rows(group, group.evidence.answers)
    if not rows:
        return _silent(group)
    totals = [float((row.rank_base - row.rank_tuned).sum()) for row in rows]
    return per_token(group, totals, [len(row.agree) for row in rows], names)


@probes_metric(
    unit="nats",
    scale="difference",
    source=f"{URIAL}; the difference is ours",
    **ANSWERED,  # type: ignore[arg-type]
    formula="mean over answers of mean KL(t, b) over tokens 6 and later - over tokens 1 to 5; greedy answers",
)
def kl_late_minus_early(group: ProbeGroup) -> ProbeReading:
    """Whether the models part at the beginning of an answer, as chat tuning does, or behind it."""
    rows, names = _rows(group, group.evidence.answers)
    long = [(row.kl_tuned_base, name) for row, name in zip(rows, names, strict=True) if len(row.agree) > EARLY]
    if len(long) < FEWEST:
        return ProbeReading(None, samples=len(rows), remark=f"{len(long)} answers are longer than {EARLY} tokens")
    moved = [float(kl[EARLY:].mean() - kl[:EARLY].mean()) for kl, _ in long]
    return mean(group, moved, [name for _, name in long])


@probes_metric(
    unit="1",
    scale="size",
    source="after arXiv:2511.08567, Gate I, which is about one step; the form for saves is ours",
    formula="k_i / max over j < i of k_j max(1, n_i / n_j)^2, k_i = mean KL(t_i, t_(i-1)) on given text, n_i steps",
    passes=("intervals",),
    fits=is_text,
    asks="text, or prompt and completion",
    alike="texts",
    over="steps",
)
def kl_step_growth(group: ProbeGroup) -> ProbeReading:
    """How much farther the policy moved from the save before than between any saves before; the base is the first.

    An interval of more steps may be longer by the square of their quotient, as on a path in one direction.
    """
    *before, own = group.evidence.intervals or (None,)
    if own is None or not before:
        return ProbeReading(None, samples=len(group.ids), remark="there is no save before the one before")
    names = [name for name in group.ids if all(name in one.kl for one in (own, *before))]
    if not names:
        return ProbeReading(None, samples=len(group.ids), remark="no probe is the same tokens for every save")
    allowed = [[_allowed(own, one) * one.kl[name][0] for name in names] for one in before]
    floors = [FLOORS * group.evidence.floor * own.kl[name][1] for name in names]
    widest = max((*allowed, floors), key=sum)
    reading = quotient(group, [own.kl[name][0] for name in names], widest, names, [own.kl[n][0] for n in names])
    tokens = sum(own.kl[name][1] for name in names)
    means = [sum(one.kl[name][0] for name in names) / tokens for one in (*before, own)]
    said = f"nats per token from save to save: {', '.join(f'{m:.2g}' for m in means[-SAVES:])}"
    return with_remark(reading, said if widest is not floors else f"{said}; rounding comes to as much")


def _allowed(own: Interval, before: Interval) -> float:
    """How many times as far as an earlier interval a longer one may go."""
    return max(1.0, own.steps / before.steps) ** 2 if before.steps > 0 else 1.0


def _divergence(group: ProbeGroup, texts: Mapping[str, ComparedText], column: str) -> ProbeReading:
    reading = _mean_of(group, texts, column)
    if reading.value is None:
        return reading
    floor = group.evidence.floor
    said = f"rounding comes to {floor:.2g}"
    if reading.value < FLOORS * floor:
        said = f"not told apart from rounding, which comes to {floor:.2g}"
    return with_remark(reading, said)


def _mean_of(group: ProbeGroup, texts: Mapping[str, ComparedText], column: str) -> ProbeReading:
    rows, names = _rows(group, texts)
    if not rows:
        return _silent(group)
    values = [getattr(row, column) for row in rows]
    return per_token(group, [float(v.sum()) for v in values], [len(v) for v in values], names)


def _of_ranks(group: ProbeGroup, hit: Callable[[Array], Array]) -> ProbeReading:
    rows, names = _rows(group, group.evidence.answers)
    if not rows:
        return _silent(group)
    hits = [float(np.sum(hit(row.rank_base))) for row in rows]
    return per_token(group, hits, [len(row.agree) for row in rows], names)


def _rows(group: ProbeGroup, texts: Mapping[str, ComparedText]) -> tuple[list[ComparedText], list[str]]:
    found = [(texts[name], name) for name in group.ids if name in texts]
    return [row for row, _ in found], [name for _, name in found]


def _silent(group: ProbeGroup) -> ProbeReading:
    return ProbeReading(None, samples=len(group.items), remark="the tuned model answers with nothing")


def by_position(rows: Sequence[ComparedText], most: int) -> list[float]:
    """Mean KL(t, b) at each position, over the texts that reach it."""
    longest = min(most, max((len(row.agree) for row in rows), default=0))
    return [float(np.mean([row.kl_tuned_base[at] for row in rows if len(row.agree) > at])) for at in range(longest)]
