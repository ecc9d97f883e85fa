"""How far the engine that sampled and the trainer that learns are apart, token by token.

mu is the engine's probability of the token it sampled, pi_old the trainer's at the weights that sampled, and
l = log pi_old - log mu. Means are over the tokens under the loss mask, standard errors by sequence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.moments import ClusteredMean, Furthest, enough
from ckptaudit.rollouts.readings import (
    MIN_SEQUENCES,
    MIN_TOKENS,
    Metric,
    Reading,
    Scale,
    estimate,
    exact,
    lower_end,
    step_subject,
    unjudged,
)
from ckptaudit.rollouts.run import RunSoFar, Series

if TYPE_CHECKING:
    from ckptaudit.rollouts.batches import StepRows, Tokens

PAIR = ("logp_rollout", "logp_train")
IDENTICAL = (
    "both log-probabilities are identical, as where a trainer copies the engine's instead of computing its own; "
    "log what the trainer computes"
)


def _metric(
    name: str, formula: str, source: str, unit: str = "nat", scale: Scale = "size", smallest: float = 0.0
) -> Metric:
    return Metric(
        name=name,
        unit=unit,
        formula=formula,
        source=source,
        scale=scale,
        per=("step",),
        needs=PAIR,
        smallest=smallest,
    )


def _median(name: str, of: str, unit: str = "nat", scale: Scale = "size") -> Metric:
    return Metric(
        name=name,
        unit=unit,
        formula=f"median of {of} over steps",
        source="NeMo-RL release gates (median over steps)",
        scale=scale,
        per=("run",),
        needs=PAIR,
        rests_on=(of,),
    )


K1 = Metric(
    name="mismatch_k1",
    unit="nat",
    formula="mean(-l), estimates KL(mu || pi_old); may be negative by chance",
    source="Schulman, Approximating KL divergence (2020); verl rollout_corr/kl",
    scale="difference",
    per=("step",),
    needs=PAIR,
)
K3 = _metric(
    "mismatch_k3",
    "mean(exp(l) - l - 1), estimates KL(mu || pi_old), never negative",
    "Schulman, Approximating KL divergence (2020); NeMo-RL gen_kl_error",
)
ABSOLUTE = _metric("mismatch_abs", "mean(abs(l))", "slime train_rollout_logprob_abs_diff; TRL, SkyRL")
MULTIPLICATIVE = _metric("mismatch_mult", "mean(exp(abs(l)))", "NeMo-RL token_mult_prob_error", "1", "factor", 1.0)
PROBABILITY = _metric(
    "probability_difference", "mean(abs(pi_old - mu))", "verl training/rollout_probs_diff_mean", "1"
)
CORRELATION = Metric(
    name="probability_correlation",
    unit="1",
    formula="Pearson correlation of pi_old and mu over tokens",
    source="verl training/rollout_actor_probs_pearson_corr",
    scale="size",
    per=("step",),
    needs=PAIR,
)
K3_MEDIAN = _median("mismatch_k3_median", "mismatch_k3")
MULT_MEDIAN = _median("mismatch_mult_median", "mismatch_mult", "1", "factor")
K3_MEAN = Metric(
    name="mismatch_k3_mean",
    unit="nat",
    formula="mean of mismatch_k3 over steps",
    source="NeMo-RL release gates: mean of gen_kl_error",
    scale="size",
    per=("run",),
    needs=PAIR,
    rests_on=(K3.name,),
)
METRICS = (K1, K3, ABSOLUTE, MULTIPLICATIVE, PROBABILITY, CORRELATION, K3_MEAN, K3_MEDIAN, MULT_MEDIAN)

_VALUES = {
    K1.name: lambda tokens: -tokens.log_ratio,
    K3.name: lambda tokens: tokens.excess - tokens.log_ratio,
    ABSOLUTE.name: lambda tokens: np.abs(tokens.log_ratio),
    MULTIPLICATIVE.name: lambda tokens: np.maximum(tokens.ratio, 1.0 / tokens.ratio),
    PROBABILITY.name: lambda tokens: np.abs(np.subtract(*tokens.probabilities)),
}
_ESTIMATED = (K1, K3, ABSOLUTE, MULTIPLICATIVE, PROBABILITY)
_OF_STEPS = {metric.name: metric for metric in _ESTIMATED}


def begin_step(facts: RunFacts, wanted: frozenset[str]) -> Mismatch:
    """Means over a step."""
    return Mismatch(wanted)


class Mismatch:
    """Clustered means of the wanted quantities over the rows of a step."""

    def __init__(self, wanted: frozenset[str]) -> None:
        self._metrics = [metric for metric in _ESTIMATED if metric.name in wanted]
        self._means = {metric.name: ClusteredMean() for metric in self._metrics}
        self._worst = {metric.name: Furthest() for metric in self._metrics}
        self._correlation = Correlation() if CORRELATION.name in wanted else None
        self._differ = False
        self._seen = False
        self._steps = 1

    def follow(self, before: Mismatch) -> None:
        """Begin with the sums of the steps before, where those were too few for an estimate."""
        if before._differ and any(_lacking(mean) for mean in before._means.values()):
            self._means, self._worst = before._means, before._worst
            self._correlation, self._differ = before._correlation, before._differ
            self._steps = before._steps + 1

    def add(self, rows: StepRows) -> None:
        """Add the sums of some rows."""
        tokens = rows.tokens(*PAIR)
        if tokens is None or not tokens.count:
            return
        self._seen = True
        self._differ = self._differ or tokens.differ
        for name, mean in self._means.items():
            with np.errstate(over="ignore", divide="ignore"):
                sums = tokens.by_sequence(_VALUES[name](tokens))
            mean.add(sums, tokens.counts)
            self._worst[name].add(np.abs(sums) / tokens.counts, rows.names[tokens.row])
        if self._correlation is not None:
            self._correlation.add(tokens)

    def readings(self, step: int) -> Iterator[Reading]:
        """One estimate for each wanted metric."""
        if not self._seen:
            return
        subject = step_subject(step)
        for metric in self._metrics:
            mean = self._means[metric.name]
            worst = self._worst[metric.name].names
            yield (
                self._estimate(metric, subject, mean, worst)
                if self._differ
                else unjudged(metric, subject, IDENTICAL, int(mean.count))
            )
        if self._correlation is not None and self._differ:
            yield self._correlation.reading(subject)

    def _estimate(self, metric: Metric, subject: str, mean: ClusteredMean, worst: tuple[str, ...]) -> Reading:
        lacking = _lacking(mean)
        if lacking:
            return unjudged(metric, subject, lacking, int(mean.count))
        before = self._steps - 1
        remark = f"with the {f'{before} steps' if before > 1 else 'step'} before, of few tokens" if before else ""
        return estimate(metric, subject, mean.mean, mean.standard_error, int(mean.count), worst, remark)


def _lacking(mean: ClusteredMean) -> str:
    return enough(mean, MIN_TOKENS, MIN_SEQUENCES)


class Correlation:
    """Pearson's correlation of the two probabilities, from their first and second moments about 1/2."""

    def __init__(self) -> None:
        self._sums = np.zeros(6)

    def add(self, tokens: Tokens) -> None:
        """Add some tokens."""
        mine, theirs = (probability - 0.5 for probability in tokens.probabilities)
        # Not by BLAS, whose threads would wait busily beside ours.
        products = [np.einsum("i,i->", a, b) for a, b in ((mine, mine), (theirs, theirs), (mine, theirs))]
        self._sums += [len(mine), mine.sum(), theirs.sum(), *products]

    def reading(self, subject: str) -> Reading:
        """The correlation; not judged where one side is constant."""
        count, mine, theirs, mine_squared, theirs_squared, product = self._sums.tolist()
        below = (mine_squared - mine**2 / count) * (theirs_squared - theirs**2 / count)
        if count < MIN_TOKENS or below <= 0:
            return unjudged(CORRELATION, subject, "too few tokens, or all of one probability", int(count))
        value = (product - mine * theirs / count) / math.sqrt(below)
        return exact(CORRELATION, subject, value, int(count))


def run_readings(run: RunSoFar) -> Iterator[Reading]:
    """Mean and medians over the steps that have a value."""
    if K3_MEAN.name in run.wanted:
        yield mean_over_steps(K3_MEAN, run)
    for metric in (K3_MEDIAN, MULT_MEDIAN):
        if metric.name in run.wanted:
            yield median_over_steps(metric, run)


def mean_over_steps(metric: Metric, run: RunSoFar) -> Reading:
    """The mean of the steps' values, its standard error that of a mean of independent steps."""
    judged = run.judged(metric.rests_on[0])
    if not judged:
        return unjudged(metric, "run", _why_none(run, metric.rests_on[0]))
    values, lowest = run.values(metric.rests_on[0]), _lower_ends(judged)
    error = math.sqrt(sum((reading.standard_error or 0.0) ** 2 for _, reading in judged)) / len(judged)
    worst = max(judged, key=lambda pair: pair[1].value or 0.0)[1].subject
    mean = math.fsum(values) / len(values)
    return estimate(metric, "run", mean, error, len(values), (worst,), at_least=math.fsum(lowest) / len(lowest))


def median_over_steps(metric: Metric, run: RunSoFar) -> Reading:
    """The median of the steps' values, its standard error that of a median of independent steps."""
    judged = run.judged(metric.rests_on[0])
    if not judged:
        return unjudged(metric, "run", _why_none(run, metric.rests_on[0]))
    values = [reading.value for _, reading in judged if reading.value is not None]
    errors = [reading.standard_error or 0.0 for _, reading in judged]
    # For normal errors a median's is sqrt(pi / 2) times a mean's.
    error = math.sqrt(math.pi / 2 * sum(e * e for e in errors)) / len(errors)
    worst = max(judged, key=lambda pair: pair[1].value or 0.0)[1].subject
    lowest = median(_lower_ends(judged))
    return estimate(metric, "run", median(values), error, len(values), (worst,), at_least=lowest)


def _lower_ends(judged: Series) -> list[float]:
    """Where the interval of each step begins."""
    return [
        lower_end(_OF_STEPS[reading.metric], reading.value or 0.0, reading.standard_error or 0.0)
        for _, reading in judged
    ]


def _why_none(run: RunSoFar, metric: str) -> str:
    why = run.why_none(metric)
    return f"no step has a value: {why}" if why else "no step has a value"
