"""How wide the log-ratios scatter among the tokens that the engine thought unlikely.

The diagnostic of Adaptive Layerwise Perturbation (arXiv:2603.19470): where a run goes wrong the envelope widens
first at low probabilities. Quantiles come from a histogram of fixed size, so memory does not grow with tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.moments import Array
from ckptaudit.rollouts.quantities.mismatch import IDENTICAL, PAIR
from ckptaudit.rollouts.readings import MIN_TOKENS, Metric, Reading, exact, step_subject, unjudged
from ckptaudit.rollouts.run import RunSoFar, tenths

if TYPE_CHECKING:
    from ckptaudit.rollouts.batches import StepRows

SCALE = 0.002
"""Log-ratios are binned evenly in asinh(l / SCALE): linear below it, by factors of 1.04 far above."""
RATIO_BINS = 512
EDGES = SCALE * np.sinh(np.linspace(-np.arcsinh(30 / SCALE), np.arcsinh(30 / SCALE), RATIO_BINS + 1))
LOWEST_LOGP = -25.0
PROBABILITY_BINS = 256

WIDTH = Metric(
    name="low_probability_width",
    unit="nat",
    formula="q98(l) - q02(l) over the tenth of the tokens with the smallest mu",
    source="arXiv:2603.19470: the envelope from the 2nd to the 98th percentile; no figure is published",
    scale="size",
    per=("step",),
    needs=PAIR,
)
GROWTH = Metric(
    name="low_probability_growth",
    unit="1",
    formula="low_probability_width, median of the last tenth of the steps / of the first tenth",
    source="arXiv:2603.19470: direction; factor ours",
    scale="size",
    per=("run",),
    needs=PAIR,
    rests_on=(WIDTH.name,),
)
METRICS = (WIDTH, GROWTH)


def begin_step(facts: RunFacts, wanted: frozenset[str]) -> Envelope:
    """A histogram over a step."""
    return Envelope()


class Envelope:
    """Counts by the engine's log-probability and the log-ratio."""

    def __init__(self) -> None:
        self._counts = np.zeros(PROBABILITY_BINS * RATIO_BINS, dtype=np.int64)
        self._differ = False

    def add(self, rows: StepRows) -> None:
        """Count some rows."""
        tokens = rows.tokens(*PAIR)
        if tokens is None or not tokens.count:
            return
        self._differ = self._differ or tokens.differ
        likely = tokens.values["logp_rollout"]
        row = np.clip(likely * (PROBABILITY_BINS / LOWEST_LOGP), 0, PROBABILITY_BINS - 1).astype(np.int64)
        half = RATIO_BINS / 2
        place = np.arcsinh(tokens.log_ratio / SCALE) * (half / np.arcsinh(30 / SCALE)) + half
        column = np.clip(place, 0, RATIO_BINS - 1).astype(np.int64)
        self._counts += np.bincount(row * RATIO_BINS + column, minlength=len(self._counts))

    def readings(self, step: int) -> Iterator[Reading]:
        """The width among the least likely tenth."""
        table = self._counts.reshape(PROBABILITY_BINS, RATIO_BINS)
        total = int(table.sum())
        subject = step_subject(step)
        if total < MIN_TOKENS or not self._differ:
            if total:
                few = f"{total:,} tokens; at least {MIN_TOKENS:,} are needed"
                yield unjudged(WIDTH, subject, few if self._differ else IDENTICAL, total)
            return
        unlikely = _least_likely(table, total / 10)
        width = _quantile(unlikely, 0.98) - _quantile(unlikely, 0.02)
        yield exact(WIDTH, subject, width, int(unlikely.sum()))


def _least_likely(table: Array, wanted: float) -> Array:
    """The histogram of l over the least likely tokens; of the bin on the edge its share."""
    sizes = table.sum(axis=1)[::-1]
    before = np.cumsum(sizes) - sizes
    share = np.clip((wanted - before) / np.maximum(sizes, 1), 0.0, 1.0)[::-1]
    return np.asarray(share @ table)


def _quantile(counts: Array, level: float) -> float:
    """A quantile, values taken as even within their bin."""
    cumulative = np.concatenate(([0.0], np.cumsum(counts)))
    return float(np.interp(level * cumulative[-1], cumulative, EDGES))


def run_readings(run: RunSoFar) -> Iterator[Reading]:
    """How the width at the end compares with that at the beginning."""
    values = run.values(WIDTH.name)
    if GROWTH.name not in run.wanted:
        return
    if len(values) < 2:
        yield unjudged(GROWTH, "run", "fewer than two steps have a width", len(values))
        return
    first, last = tenths(values)
    yield exact(GROWTH, "run", last / first, len(values), remark=f"from {first:.3g} to {last:.3g} nat")
