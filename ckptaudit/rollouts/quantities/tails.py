"""How heavy the tails of the ratios are, of single tokens and of sequences.

Sequence weights shrink with length even in a healthy run (their effective sample size is exp(-n s^2) for
independent noise of deviation s), so those are reported and no constant judges them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.moments import Array, ClusteredMean, Furthest, enough
from ckptaudit.rollouts.pareto import MIN_WEIGHTS, largest_usable_k, pareto_k
from ckptaudit.rollouts.quantities.mismatch import IDENTICAL, PAIR
from ckptaudit.rollouts.readings import (
    MIN_SEQUENCES,
    MIN_TOKENS,
    Metric,
    Reading,
    Scale,
    estimate,
    exact,
    step_subject,
    unjudged,
)

if TYPE_CHECKING:
    from ckptaudit.rollouts.batches import StepRows, Tokens

VETO = 1e-4
LOW_PREFIX = 0.5
CLAMP = 20.0
"""Sequence log-ratios are clamped here before they are squared, as verl does."""


def _metric(name: str, formula: str, source: str, scale: Scale = "share") -> Metric:
    return Metric(name=name, unit="1", formula=formula, source=source, scale=scale, per=("step",), needs=PAIR)


TAIL = _metric("tail_share", "P(max(rho, 1 / rho) > 2) over tokens", "R3 (arXiv:2510.11370), F(tau) at tau = 2")
TOKEN_ESS = _metric(
    "token_ess", "mean(rho)^2 / mean(rho^2) over tokens", "verl rollout_corr/rollout_is_eff_sample_size"
)
TOKEN_CHI2 = _metric("token_chi2", "mean(rho^2) - 1 over tokens", "verl rollout_corr/chi2_token", "size")
VETOED = Metric(
    name="vetoed_per_million",
    unit="tokens per million",
    formula="1e6 P(rho < 1e-4) over tokens",
    source="the veto of slime and SkyRL",
    scale="count",
    per=("step",),
    needs=PAIR,
)
LOW_PREFIXES = _metric(
    "low_prefix_share",
    "P(min_{i<t} rho_i < 0.5) over tokens",
    "MinPRO (arXiv:2601.22718), the minimum over the prefix; 0.5 is IcePop's lower limit",
)
SEQUENCE_MINIMUM = _metric("low_sequence_share", "P(min_t rho_t < 0.5) over sequences", "MinPRO (arXiv:2601.22718)")
SEQUENCE_ESS = _metric(
    "sequence_ess", "mean(w)^2 / mean(w^2), w = exp(sum_t l_t)", "verl rollout_corr; no limit is meant"
)
SEQUENCE_CHI2 = _metric(
    "sequence_chi2",
    "mean(exp(2 L)) - 1, L = sum_t l_t clamped to +-20",
    "verl rollout_corr/chi2_seq; no limit is meant",
    "size",
)
PARETO = _metric(
    "pareto_k", "shape of the generalised Pareto fit to the largest ceil(min(0.2 S, 3 sqrt S)) sequence weights",
    "Vehtari et al., Pareto smoothed importance sampling", "size",
)  # fmt: skip
PARETO_EXCESS = _metric(
    "pareto_k_excess", "pareto_k - min(1 - 1 / log10 S, 0.7)", "the rule of PSIS for S weights", "difference"
)
METRICS = (
    TAIL, TOKEN_ESS, TOKEN_CHI2, VETOED, LOW_PREFIXES, SEQUENCE_MINIMUM, SEQUENCE_ESS, SEQUENCE_CHI2,
    PARETO, PARETO_EXCESS,
)  # fmt: skip


def begin_step(facts: RunFacts, wanted: frozenset[str]) -> Tails:
    """Tail counts and sequence weights of a step."""
    return Tails(wanted)


class Tails:
    """Counts over tokens, second moments by sequence, and the log-weight of each sequence."""

    def __init__(self, wanted: frozenset[str]) -> None:
        self._wanted = wanted
        self._tail, self._low = ClusteredMean(), ClusteredMean()
        self._square, self._ratio, self._minimum = ClusteredMean(), ClusteredMean(), ClusteredMean()
        self._vetoed = 0
        self._log_weights: list[Array] = []
        self._worst, self._widest, self._lowest = Furthest(), Furthest(), Furthest()
        self._differ = False

    def add(self, rows: StepRows) -> None:
        """Add some rows."""
        tokens = rows.tokens(*PAIR)
        if tokens is None or not tokens.count:
            return
        names = rows.names[tokens.row]
        self._differ = self._differ or tokens.differ
        with np.errstate(over="ignore"):
            self._ratio.add(tokens.by_sequence(tokens.ratio), tokens.counts)
            self._square.add(tokens.by_sequence(tokens.ratio * tokens.ratio), tokens.counts)
        outside = tokens.hits(np.abs(tokens.log_ratio) > math.log(2))
        self._tail.add(outside, tokens.counts)
        self._worst.add(outside, names)
        self._add_minima(tokens, names)
        log_weights = tokens.by_sequence(tokens.log_ratio)
        self._log_weights.append(log_weights)
        self._widest.add(np.abs(log_weights), names)

    def _add_minima(self, tokens: Tokens, names: Array) -> None:
        least = tokens.least(tokens.log_ratio)
        self._minimum.add((least < math.log(LOW_PREFIX)).astype(float), np.ones(len(least)))
        vetoed = tokens.hits(tokens.log_ratio < math.log(VETO))
        self._vetoed += int(vetoed.sum())
        self._lowest.add(vetoed, names)
        # The tokens after the first low one have a low prefix; that one itself has not.
        after = np.zeros(len(least))
        if least.min() < math.log(LOW_PREFIX):
            low = tokens.log_ratio < math.log(LOW_PREFIX)
            first = tokens.least(np.where(low, tokens.position, np.iinfo(np.int64).max))
            after = np.maximum(tokens.counts - first - 1, 0).astype(float)
        self._low.add(after, tokens.counts)

    def readings(self, step: int) -> Iterator[Reading]:
        """What the wanted metrics say of the step."""
        if not self._ratio.count:
            return
        subject = step_subject(step)
        for metric in METRICS:
            if metric.name in self._wanted:
                yield self._reading(metric, subject)

    def _reading(self, metric: Metric, subject: str) -> Reading:
        tokens = int(self._ratio.count)
        lacking = enough(self._ratio, MIN_TOKENS, MIN_SEQUENCES)
        if not self._differ or lacking:
            return unjudged(metric, subject, lacking or IDENTICAL, tokens)
        if metric in (TAIL, LOW_PREFIXES, SEQUENCE_MINIMUM):
            mean, worst = self._share(metric)
            return estimate(metric, subject, mean.mean, mean.standard_error, int(mean.count), worst)
        if metric in (PARETO, PARETO_EXCESS):
            return self._pareto(metric, subject)
        if metric is VETOED:
            return exact(metric, subject, 1e6 * self._vetoed / tokens, tokens, self._lowest.names)
        if metric in (TOKEN_ESS, TOKEN_CHI2):
            return self._second_moment(metric, subject)
        return self._sequences(metric, subject)

    def _share(self, metric: Metric) -> tuple[ClusteredMean, tuple[str, ...]]:
        return {
            TAIL.name: (self._tail, self._worst.names),
            LOW_PREFIXES.name: (self._low, ()),
            SEQUENCE_MINIMUM.name: (self._minimum, ()),
        }[metric.name]

    def _second_moment(self, metric: Metric, subject: str) -> Reading:
        square, error = self._square.mean, self._square.standard_error
        value, tokens, worst = square - 1, int(self._square.count), self._widest.names
        if metric is TOKEN_ESS:
            # The mean of the ratios is all but certain beside the mean of their squares.
            value = self._ratio.mean**2 / square
            error = value * error / square
        return estimate(metric, subject, value, error, tokens, worst)

    def _sequences(self, metric: Metric, subject: str) -> Reading:
        logs = np.concatenate(self._log_weights)
        if metric is SEQUENCE_CHI2:
            value = float(np.exp(2 * np.clip(logs, -CLAMP, CLAMP)).mean()) - 1
        else:
            weights = np.exp(logs - logs.max())
            value = float(weights.mean() ** 2 / (weights * weights).mean())
        return exact(metric, subject, value, len(logs), self._widest.names)

    def _pareto(self, metric: Metric, subject: str) -> Reading:
        logs = np.concatenate(self._log_weights)
        if len(logs) < MIN_WEIGHTS:
            return unjudged(metric, subject, f"{len(logs)} sequences; at least {MIN_WEIGHTS} are needed", len(logs))
        shape = pareto_k(logs)
        if math.isnan(shape):
            return unjudged(metric, subject, "the largest weights are all the same", len(logs))
        value = shape if metric is PARETO else shape - largest_usable_k(len(logs))
        # No interval: the rule of PSIS is meant for the estimate itself.
        return exact(metric, subject, value, len(logs), self._widest.names)
