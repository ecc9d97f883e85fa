"""Whether engine and trainer differ in one direction: tests of identities, whose expectation is known exactly.

Where mu covers pi_old, E_mu[pi_old / mu] = 1 at every position; where the tokens were drawn from pi_old,
E[-log pi_old - H] = 0. Four standard errors, by sequence, lie between a value and the end of its interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.moments import Array, ClusteredMean, Furthest, enough
from ckptaudit.rollouts.pooling import PooledParts, score
from ckptaudit.rollouts.quantities.mismatch import IDENTICAL, PAIR
from ckptaudit.rollouts.readings import (
    MIN_SEQUENCES,
    MIN_TOKENS,
    Metric,
    Part,
    Per,
    Reading,
    estimate,
    step_subject,
    unjudged,
)
from ckptaudit.rollouts.run import RunSoFar

if TYPE_CHECKING:
    from ckptaudit.rollouts.batches import StepRows, Tokens

FIRST_POSITIONS = (0, 1, 2, 4, 8, 16, 64, 256, 1024, 4096)
"""Where the ten bins of positions begin. They count from the beginning of a response: whether it is long enough to
have a token there is settled before that token is drawn, so the identity holds. By share of the length it does not,
as the length depends on the tokens themselves."""
_ENDS = np.array([*FIRST_POSITIONS[1:], np.iinfo(np.int64).max])
SMALLEST_K3 = 1e-9
"""Below it the two sides differ by rounding, and a slope in units of k3 says nothing; ours."""
_IDENTITY = "identity: E_mu[pi_old / mu] = 1 where mu covers pi_old"
_BOTH: tuple[Per, ...] = ("step", "run")


def _bias(name: str, formula: str, source: str = _IDENTITY) -> Metric:
    return Metric(
        name=name,
        unit="1",
        formula=formula,
        source=source,
        scale="difference",
        per=_BOTH,
        needs=PAIR,
        rests_on=(name,),
        deviations=4.0,
        pooled=True,
    )


RATIO = _bias("ratio_bias", "abs(mean(pi_old / mu) - 1) over tokens; over the run all steps pooled")
FIRST = _bias("ratio_bias_first", "abs(mean(pi_old / mu) - 1) over the first token of each response")
POSITION = _bias(
    "ratio_bias_position",
    "the bin of positions (from 0, 1, 2, 4, 8, 16, 64, 256, 1024, 4096 on) whose abs(mean(pi_old / mu) - 1) is "
    "most standard errors from 0",
    "identity per position; the idea of a ratio per step of a trajectory is GRPO-Guard's (arXiv:2510.22319)",
)
DRIFT = Metric(
    name="prefix_drift",
    unit="1",
    formula="abs(least-squares slope of log prod_{i<=t} rho_i on t) / k3, sequences weighted by length",
    source="direction: MinPRO (arXiv:2601.22718); an unbiased l has slope -KL, so about 1; factor ours",
    scale="size",
    per=_BOTH,
    needs=PAIR,
    rests_on=("prefix_drift",),
    deviations=4.0,
    pooled=True,
)
SURPRISAL = Metric(
    name="surprisal_gap",
    unit="nat",
    formula="abs(mean(-log pi_old - H)), H the entropy of the trainer's distribution at the position",
    source="identity: 0 where tokens are drawn from pi_old",
    scale="difference",
    per=_BOTH,
    needs=("logp_train", "entropy"),
    rests_on=("surprisal_gap",),
    deviations=4.0,
    pooled=True,
)
METRICS = (RATIO, FIRST, POSITION, DRIFT, SURPRISAL)


def begin_step(facts: RunFacts, wanted: frozenset[str]) -> Bias:
    """Signed means over a step."""
    return Bias(wanted)


class Bias:
    """Signed clustered means of rho - 1, of the drift of prefixes, and of the surprisal gap."""

    def __init__(self, wanted: frozenset[str]) -> None:
        self._wanted = wanted
        self._ratio, self._first, self._surprisal = ClusteredMean(), ClusteredMean(), ClusteredMean()
        self._bins = [ClusteredMean() for _ in FIRST_POSITIONS]
        self._slope, self._k3 = ClusteredMean(), ClusteredMean()
        self._worst, self._differ = Furthest(), False

    def add(self, rows: StepRows) -> None:
        """Add the sums of some rows."""
        if self._wanted - {SURPRISAL.name}:
            tokens = rows.tokens(*PAIR)
            if tokens is not None and tokens.count:
                self._add_ratios(tokens, rows.names)
        if SURPRISAL.name in self._wanted:
            self._add_surprisal(rows.tokens(*SURPRISAL.needs))

    def _add_ratios(self, tokens: Tokens, names: Array) -> None:
        excess = tokens.excess
        self._differ = self._differ or tokens.differ
        sums = tokens.by_sequence(excess)
        self._ratio.add(sums, tokens.counts)
        self._worst.add(np.abs(sums) / tokens.counts, names[tokens.row])
        self._first.add(excess[tokens.starts], np.ones(len(tokens.starts)))
        if POSITION.name in self._wanted:
            self._add_bins(tokens, excess)
        if DRIFT.name in self._wanted:
            self._slope.add(_slopes(tokens) * tokens.counts, tokens.counts)
            self._k3.add(tokens.by_sequence(excess - tokens.log_ratio), tokens.counts)

    def _add_bins(self, tokens: Tokens, excess: Array) -> None:
        ends = np.minimum(tokens.counts[:, None], _ENDS)
        sizes = np.maximum(ends - FIRST_POSITIONS, 0)
        there = sizes > 0
        # Bins without a token lie at the end of their sequence, so the others begin where the ones before end.
        edges = (tokens.starts[:, None] + FIRST_POSITIONS)[there]
        sums = np.zeros(sizes.shape)
        sums[there] = np.add.reduceat(excess, edges)
        for place, mean in enumerate(self._bins):
            mean.add(sums[there[:, place], place], sizes[there[:, place], place])

    def _add_surprisal(self, tokens: Tokens | None) -> None:
        if tokens is not None and tokens.count:
            gap = -tokens.values["logp_train"] - tokens.values["entropy"]
            self._surprisal.add(tokens.by_sequence(gap), tokens.counts)

    def readings(self, step: int) -> Iterator[Reading]:
        """One reading for each wanted metric whose columns are there."""
        subject = step_subject(step)
        if self._ratio.count and not self._differ:
            for metric in (RATIO, FIRST, POSITION, DRIFT):
                yield unjudged(metric, subject, IDENTICAL, int(self._ratio.count))
        elif self._ratio.count:
            lacking = enough(self._ratio, MIN_TOKENS, MIN_SEQUENCES)
            yield _furthest_part(RATIO, subject, [_part(self._ratio)], lacking, self._worst.names)
            yield _furthest_part(FIRST, subject, [_part(self._first)], lacking)
            if POSITION.name in self._wanted:
                yield _furthest_part(POSITION, subject, [_part(mean) for mean in self._bins], lacking)
            if DRIFT.name in self._wanted:
                yield _drift(subject, _part(self._slope), _part(self._k3), lacking)
        if self._surprisal.count:
            lacking = enough(self._surprisal, MIN_TOKENS, MIN_SEQUENCES)
            yield _furthest_part(SURPRISAL, subject, [_part(self._surprisal)], lacking)


def _slopes(tokens: Tokens) -> Array:
    """The slope of each sequence's cumulative log-ratio on position, without forming the cumulative sums.

    sum_t (t - mean t) C_t = sum_i l_i (n - i) i / 2 at places i from 0; sum_t (t - mean t)^2 = n (n^2 - 1) / 12.
    """
    counts = tokens.counts.astype(np.float64)
    weighted = tokens.log_ratio * tokens.position
    first = tokens.by_sequence(weighted)
    weighted *= tokens.position
    above = (counts * first - tokens.by_sequence(weighted)) / 2.0
    return np.asarray(above / np.maximum(counts * (counts**2 - 1) / 12.0, 1.0))


def _part(mean: ClusteredMean) -> Part:
    return Part(mean.mean, mean.standard_error, int(mean.count))


def _furthest_part(
    metric: Metric, subject: str, parts: list[Part], lacking: str, worst: tuple[str, ...] = ()
) -> Reading:
    """The distance from 0 of the mean that is most standard errors away; not judged if something is lacking."""
    # A bin of few sequences has an error that is itself uncertain.
    place = max(
        range(len(parts)), key=lambda place: score(parts[place]) if parts[place].samples >= MIN_SEQUENCES else 0.0
    )
    part = parts[place]
    if lacking or not math.isfinite(part.standard_error):
        return unjudged(metric, subject, lacking or "too few samples for a standard error", part.samples, parts)
    side = "above" if part.value > 0 else "below"
    remark = f"{score(part):.0f} standard errors {side} the identity"
    if len(parts) == len(FIRST_POSITIONS):
        remark = f"at the tokens from place {FIRST_POSITIONS[place]} on, counted from 0, {remark}"
    return estimate(metric, subject, abs(part.value), part.standard_error, part.samples, worst, remark, parts)


def _drift(subject: str, slope: Part, k3: Part, lacking: str) -> Reading:
    parts = [slope, k3]
    if lacking or not k3.value > SMALLEST_K3 or not math.isfinite(slope.standard_error):
        return unjudged(DRIFT, subject, lacking or "the two sides hardly differ", slope.samples, parts)
    value, error = abs(slope.value) / k3.value, slope.standard_error / k3.value
    remark = f"slope {slope.value:+.2g} per token, k3 {k3.value:.2g}"
    return estimate(DRIFT, subject, value, error, slope.samples, (), remark, parts)


def run_readings(run: RunSoFar) -> Iterator[Reading]:
    """Each identity over all steps together, weighted by their tokens."""
    for metric in (RATIO, FIRST, POSITION, SURPRISAL, DRIFT):
        pool = run.pools.get(metric.name)
        if metric.name in run.wanted and pool is not None:
            yield _pooled(metric, pool)


def _pooled(metric: Metric, pool: PooledParts) -> Reading:
    parts = pool.parts
    tokens = parts[0].samples if metric is DRIFT else sum(part.samples for part in parts)
    # The first token of each response is one a sequence; what counts there is the number of sequences.
    lacking = "" if tokens >= (MIN_SEQUENCES if metric is FIRST else MIN_TOKENS) else f"{tokens:,} tokens in all"
    if metric is DRIFT:
        return _drift("run", parts[0], parts[1], lacking)
    return _furthest_part(metric, "run", parts, lacking, (pool.worst,))
