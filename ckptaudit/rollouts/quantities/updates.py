"""How old the samples are when they are learnt from, and what clipping does to them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.moments import ClusteredMean, Furthest
from ckptaudit.rollouts.readings import Metric, Per, Reading, Scale, estimate, exact, step_subject, unjudged
from ckptaudit.rollouts.run import RunSoFar

if TYPE_CHECKING:
    from ckptaudit.rollouts.batches import StepRows, Tokens

VERSIONS = ("version_first", "version_train")
UPDATE = ("logp_train", "logp_new")
CLIPPING = (*UPDATE, "advantage")


def _metric(
    name: str, unit: str, formula: str, source: str, scale: Scale, needs: tuple[str, ...], per: Per = "step",
    rests_on: tuple[str, ...] = (), declared: tuple[str, ...] = (), of_what: str = "",
) -> Metric:  # fmt: skip
    return Metric(
        name=name,
        unit=unit,
        formula=formula,
        source=source,
        scale=scale,
        per=(per,),
        needs=needs,
        rests_on=rests_on,
        declared=declared,
        of_what=of_what,
    )


STALENESS = _metric(
    "staleness", "versions", "max(version_train - version_first) over samples",
    "Group-relative REINFORCE (arXiv:2509.24203): sync_interval + sync_offset; prime-rl max_off_policy_steps",
    "count", VERSIONS,
)  # fmt: skip
EXCESS = _metric(
    "staleness_excess", "versions", "max(version_train - version_first) - declared max_staleness, at least 0",
    "an integer that the trainer promises", "count", VERSIONS, declared=("max_staleness",),
)  # fmt: skip
CLIPPED = _metric(
    "clip_share", "1", "P(A > 0 and r > 1 + clip_high, or A < 0 and r < 1 - clip_low), r = pi / pi_old",
    "PPO; verl actor/pg_clipfrac", "share", CLIPPING,
)  # fmt: skip
ASYMMETRY = _metric(
    "clip_asymmetry", "1", "larger of the clip shares of A > 0 and of A < 0 / the smaller, of one token at least",
    "GRPO-Guard (arXiv:2510.22319): clipping that works on one side only", "size", CLIPPING,
    of_what="clipped token",
)  # fmt: skip
SECOND_MOMENT = _metric(
    "update_m2", "nat^2", "mean((log pi - log pi_old)^2)", "M2PO (arXiv:2510.01161)", "size", UPDATE
)
IDLE = _metric(
    "idle_clip_share", "1", "share of the steps after the first with staleness > 0 at which no token is clipped",
    "Group-relative REINFORCE (arXiv:2509.24203): without its clip an off-policy run collapses", "share",
    (*VERSIONS, *CLIPPING), "run", (STALENESS.name, CLIPPED.name),
)  # fmt: skip
METRICS = (STALENESS, EXCESS, CLIPPED, ASYMMETRY, SECOND_MOMENT, IDLE)


def begin_step(facts: RunFacts, wanted: frozenset[str]) -> Updates:
    """Ages and clipping of a step."""
    return Updates(facts, wanted)


class Updates:
    """The oldest sample of a step, and how many tokens are clipped on either side."""

    def __init__(self, facts: RunFacts, wanted: frozenset[str]) -> None:
        self._facts, self._wanted = facts, wanted
        self._oldest, self._newest, self._aged = -math.inf, math.inf, 0
        self._worst = Furthest()
        self._sides = {1: ClusteredMean(), -1: ClusteredMean()}
        self._squares = ClusteredMean()

    def add(self, rows: StepRows) -> None:
        """Take in some rows."""
        age = rows.numbers("version_train") - rows.numbers("version_first")
        known = np.isfinite(age)
        if known.any():
            self._oldest = max(self._oldest, float(age[known].max()))
            self._newest = min(self._newest, float(age[known].min()))
            self._aged += int(known.sum())
            self._worst.add(age[known], rows.names[known])
        if self._wanted & {CLIPPED.name, ASYMMETRY.name, SECOND_MOMENT.name}:
            tokens = rows.tokens(*UPDATE)
            if tokens is not None and tokens.count:
                self._add_tokens(tokens, rows.numbers("advantage")[tokens.row])

    def _add_tokens(self, tokens: Tokens, advantage: np.ndarray) -> None:
        moved = tokens.values["logp_new"] - tokens.values["logp_train"]
        self._squares.add(tokens.by_sequence(moved * moved), tokens.counts)
        low, high = self._facts.clip_low, self._facts.clip_high
        if low is None or high is None:
            return
        above = tokens.hits(moved > np.log1p(high))
        with np.errstate(divide="ignore"):
            below = tokens.hits(moved < np.log1p(-low))
        for sign, hits in ((1, above), (-1, below)):
            mine = np.sign(advantage) == sign
            self._sides[sign].add(hits[mine], tokens.counts[mine])

    def readings(self, step: int) -> Iterator[Reading]:
        """Age, clip shares and the size of the update."""
        subject = step_subject(step)
        if self._aged:
            ahead = f"a sample is {-self._newest:g} versions newer than the trainer" if self._newest < 0 else ""
            yield exact(STALENESS, subject, self._oldest, self._aged, self._worst.names, ahead)
            yield self._excess(subject)
        if self._squares.count:
            squares = self._squares
            yield estimate(SECOND_MOMENT, subject, squares.mean, squares.standard_error, int(squares.count))
            yield from self._clipping(subject)

    def _excess(self, subject: str) -> Reading:
        allowed = self._facts.max_staleness
        if allowed is None:
            return unjudged(EXCESS, subject, "declare max_staleness in [rollouts]", self._aged)
        names = self._worst.names if self._oldest > allowed else ()
        return exact(EXCESS, subject, max(0, self._oldest - allowed), self._aged, names)

    def _clipping(self, subject: str) -> Iterator[Reading]:
        if self._facts.clip_low is None or self._facts.clip_high is None:
            for metric in (CLIPPED, ASYMMETRY):
                yield unjudged(metric, subject, "declare clip_low and clip_high in [rollouts]")
            return
        up, down = self._sides[1], self._sides[-1]
        clipped = (up.total + down.total) / self._squares.count
        remark = f"{up.mean:.3g} of A > 0, {down.mean:.3g} of A < 0"
        yield exact(CLIPPED, subject, clipped, int(self._squares.count), remark=remark)
        if not (up.count and down.count):
            yield unjudged(ASYMMETRY, subject, "all advantages have one sign", int(up.count + down.count))
        elif up.total or down.total:
            yield _asymmetry(subject, up, down, remark)


def _asymmetry(subject: str, up: ClusteredMean, down: ClusteredMean, remark: str) -> Reading:
    """The ratio of both shares with an interval of two standard errors of its logarithm.

    A side without any clipped token is given one: the ratio is then a lower bound, and finite.
    """
    hits, others = max(up.total, 1.0), max(down.total, 1.0)
    ratio = (hits / up.count) / (others / down.count)
    value, spread = max(ratio, 1 / ratio), math.exp(2 * math.sqrt(1 / hits + 1 / others))
    return Reading(
        metric=ASYMMETRY.name,
        subject=subject,
        value=value,
        low=max(value / spread, 1.0),
        high=value * spread,
        samples=int(up.count + down.count),
        remark=remark,
    )


def run_readings(run: RunSoFar) -> Iterator[Reading]:
    """Whether clipping ever acts while samples are stale."""
    if IDLE.name not in run.wanted:
        return
    ages = {step: reading.value or 0.0 for step, reading in run.judged(STALENESS.name)}
    shares = {step: reading.value for step, reading in run.judged(CLIPPED.name)}
    logged = run.scalars.get("clip_share", {})
    stale = [step for step in run.steps[1:] if ages.get(step, 0) > 0 and (step in shares or step in logged)]
    if not stale:
        yield unjudged(IDLE, "run", "no step after the first has stale samples and a clip share")
        return
    idle = [step for step in stale if not shares.get(step, logged.get(step))]
    yield exact(IDLE, "run", len(idle) / len(stale), len(stale), [step_subject(step) for step in idle[:3]])
