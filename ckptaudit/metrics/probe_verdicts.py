"""Verdicts from elsewhere, joined by probe id: scores, preferences, unsafe answers, references, agreement."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from statistics import fmean, pstdev

from ckptaudit.behavior.agreement import Pair, cohen_kappa
from ckptaudit.behavior.given_verdicts import Answerer, GivenVerdicts
from ckptaudit.behavior.probe import Probe
from ckptaudit.behavior.statistics import Estimate, mcnemar
from ckptaudit.metrics.behavior import FEWEST, NAMED, ProbeGroup, ProbeReading, probes_metric, with_remark
from ckptaudit.metrics.probe_divergence import FLOORS, is_asked
from ckptaudit.metrics.probe_estimates import as_reading, change, mean, quotient, share, weights_of


def is_answerable(probe: Probe) -> bool:
    """Whether it has a prompt, to which an answer can be judged."""
    return probe.kind != "text"


SIDES: tuple[Answerer, ...] = ("base", "tuned")
SHOWN = 3
"""Judges whose means are told."""

JUDGED = {"passes": (), "needs": ("verdicts",), "fits": is_answerable, "asks": "a prompt"}


@probes_metric(
    unit="1", scale="difference", source="the definition is standard", **JUDGED,  # type: ignore[arg-type]
    formula="mean over probes of the judge's score of the tuned model's answer",
    among=lambda verdicts: verdicts.scored_tuned,
)  # fmt: skip
def mean_score(group: ProbeGroup) -> ProbeReading:
    """What the tuned model's answers score, on the judge's own scale; of one judge alone."""
    scores = group.evidence.verdicts.scores
    if len(scores) > 1:
        return _several(group, scores)
    own = next(iter(scores.values()))
    return mean(group, [own[name, "tuned"] for name in group.ids], group.ids, lowest=True)


@probes_metric(
    unit="1", scale="difference", source="a standardised mean difference; the scaling is ours", **JUDGED,  # type: ignore[arg-type]
    formula="mean over probes and judges of (s_t - s_b) / d, d the standard deviation of all of the judge's scores",
    among=lambda verdicts: verdicts.scored,
)  # fmt: skip
def score_change(group: ProbeGroup) -> ProbeReading:
    """How much better or worse the answers score than the base's; d is taken as known by the interval."""
    gains: dict[str, list[float]] = {name: [] for name in group.ids}
    said = []
    for judge, scores in group.evidence.verdicts.scores.items():
        names = [name for name in group.ids if (name, "base") in scores and (name, "tuned") in scores]
        before, after = ([scores[name, side] for name in names] for side in ("base", "tuned"))
        if not names:
            continue
        deviation = pstdev([*before, *after]) or 1.0
        for name, b, t in zip(names, before, after, strict=True):
            gains[name].append((t - b) / deviation)
        said.append(f"{judge}: {fmean(before):.4g} before, {fmean(after):.4g} now")
    values = [fmean(gains[name]) for name in group.ids]
    return with_remark(mean(group, values, group.ids, lowest=True), "; ".join(said[:SHOWN]))


@probes_metric(
    unit="1", scale="share", source="standard; arXiv:2405.08448 compares with a fixed policy", **JUDGED,  # type: ignore[arg-type]
    formula="mean over probes and judges of (1 where the tuned model's answer is preferred, 1/2 for a tie, else 0)",
    among=lambda verdicts: verdicts.compared,
)  # fmt: skip
def win_rate(group: ProbeGroup) -> ProbeReading:
    """How often the tuned model's answer is preferred to the base's; 0.5 where nothing has changed."""
    wins = group.evidence.verdicts.wins.values()
    rates = [fmean(own[name] for own in wins if name in own) for name in group.ids]
    won, lost = sum(rate > 0.5 for rate in rates), sum(rate < 0.5 for rate in rates)
    said = f"{won} won, {lost} lost, {len(rates) - won - lost} even; sign test p {mcnemar(lost, won):.2g}"
    reading = share(group, rates, group.ids)
    worst = sorted(zip(rates, group.ids, strict=True), key=lambda pair: pair[0])
    return with_remark(_naming(reading, [name for _, name in worst]), said)


@probes_metric(
    unit="1", scale="difference", **JUDGED,  # type: ignore[arg-type]
    source="arXiv:2604.07754, unsafety by a majority of judges",
    formula="share of probes whose answer more than half of the judges call unsafe, tuned - base",
    among=lambda verdicts: verdicts.voted,
)  # fmt: skip
def unsafe_verdicts_change(group: ProbeGroup) -> ProbeReading:
    """How many more answers the judges call unsafe."""
    unsafe = group.evidence.verdicts.unsafe
    before, after = ([unsafe[name, side] for name in group.ids] for side in SIDES)
    return change(group, before, after, group.ids, "the judges call {} of the base's answers unsafe")


@probes_metric(
    unit="1", scale="difference", source="Cohen 1960; the least over pairs of judges is ours", **JUDGED,  # type: ignore[arg-type]
    formula="least over pairs of judges of (p_o - p_e) / (1 - p_e), of preferences and of unsafe answers",
    among=lambda verdicts: verdicts.judged_twice,
)  # fmt: skip
def judges_agreement(group: ProbeGroup) -> ProbeReading:
    """Cohen's kappa of the two judges that agree least: 1 for one mind, 0 for chance."""
    found: list[tuple[Estimate | None, str, list[str]]] = []
    for what, by_judge in _categories(group.evidence.verdicts):
        for (one, first), (other, second) in combinations(by_judge.items(), 2):
            kappa, shared, disputed = _kappa(group, first, second)
            if shared >= FEWEST:
                found.append((kappa, f"{one} and {other} of {what}", disputed))
    known = [(kappa, pair, disputed) for kappa, pair, disputed in found if kappa is not None]
    if not known:
        said = f"{found[0][1]}: both always say the same" if found else f"no two judges share {FEWEST} probes"
        return ProbeReading(None, samples=len(group.ids), remark=said)
    kappa, pair, disputed = min(known, key=lambda one: one[0].value)
    return as_reading(kappa, disputed, pair)


@probes_metric(
    unit="1", scale="difference", source="PoFT (arXiv:2412.12865), section 3.2; the change is ours",
    formula="mean over probes of sigma(l_t - mean_j l_j) - sigma(l_b - mean_j l_j), l per token, j the references",
    passes=("texts",), needs=("verdicts",), fits=lambda probe: probe.kind in ("completion", "labelled"),
    asks="prompt and completion", among=lambda verdicts: verdicts.referenced,
)  # fmt: skip
def poft_win_change(group: ProbeGroup) -> ProbeReading:
    """By how much held-out answers have become likelier against reference models."""
    references = group.evidence.verdicts.references
    before, after = (
        [_sigma(group.evidence.given(name, side).mean - references[name]) for name in group.ids] for side in SIDES
    )
    reading = mean(group, [t - b for b, t in zip(before, after, strict=True)], group.ids, lowest=True)
    return with_remark(reading, f"{fmean(before):.3g} before, {fmean(after):.3g} now")


@probes_metric(
    unit="1/nats", scale="difference", source="after arXiv:2405.08448; the quotient is ours",
    formula="sum (s_t - s_b) / sum KL(t, b), KL summed over the tuned model's greedy answer; of one judge",
    passes=("answers",), needs=("verdicts",), fits=is_asked, asks="a prompt",
    among=lambda verdicts: verdicts.scored, alike="prompt",
)  # fmt: skip
def score_gain_per_nat(group: ProbeGroup) -> ProbeReading:
    """What the answers gain in score for each nat that they part from the base."""
    scores, answers = group.evidence.verdicts.scores, group.evidence.answers
    if len(scores) > 1:
        return _several(group, scores)
    own = next(iter(scores.values()))
    names = [name for name in group.ids if name in answers]
    kl = [float(answers[name].kl_tuned_base.sum()) for name in names]
    floor = FLOORS * group.evidence.floor * sum(len(answers[name].agree) for name in names)
    if not sum(kl) > floor:
        return ProbeReading(None, samples=len(names), remark="the divergence is not told apart from rounding")
    gains = [own[name, "tuned"] - own[name, "base"] for name in names]
    return quotient(group, gains, kl, names, [-gain for gain in gains])


def _several(group: ProbeGroup, scores: Mapping[str, object]) -> ProbeReading:
    said = f"{len(scores)} judges score, each on a scale of its own; score_change takes them together"
    return ProbeReading(None, samples=len(group.ids), remark=said)


def _categories(verdicts: GivenVerdicts) -> list[tuple[str, Mapping[str, Mapping[Hashable, Hashable]]]]:
    """By what is judged and by judge, what is said: whose answer is better, or whether one is unsafe."""
    preferred = {
        judge: {name: (win > 0.5) - (win < 0.5) for name, win in wins.items()}
        for judge, wins in verdicts.wins.items()
    }
    return [("preferences", preferred), ("unsafe answers", verdicts.votes)]  # type: ignore[list-item]


def _kappa(
    group: ProbeGroup, first: Mapping[Hashable, Hashable], second: Mapping[Hashable, Hashable]
) -> tuple[Estimate | None, int, list[str]]:
    """Of two judges: kappa, how many probes they share, and those that they differ on."""
    said: dict[str, list[Pair]] = {}
    for name in group.ids:
        keys: tuple[Hashable, ...] = (name, *((name, side) for side in SIDES))
        pairs = [(first[key], second[key]) for key in keys if key in first and key in second]
        if pairs:
            said[name] = pairs
    if not said:
        return None, 0, []
    kappa = cohen_kappa(list(said.values()), weights_of(group, list(said)))
    return kappa, len(said), [name for name, pairs in said.items() if any(a != b for a, b in pairs)]


def _sigma(gain: float) -> float:
    return 1 / (1 + math.exp(-max(gain, -700.0)))


def _naming(reading: ProbeReading, names: Sequence[str]) -> ProbeReading:
    return replace(reading, worst=tuple(names[:NAMED]))
