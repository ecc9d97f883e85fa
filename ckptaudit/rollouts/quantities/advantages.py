"""Whether the advantages are what the rewards of their groups make them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ckptaudit.rollouts.advantages import CENTRED, CONVENTIONS, SCALED_BY_DEVIATION, baseline, errors, rounding
from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.groups import Array, GroupGatherer, GroupTable
from ckptaudit.rollouts.moments import Furthest
from ckptaudit.rollouts.readings import (
    NO_GROUPS,
    NONE_HERE,
    Metric,
    Part,
    Per,
    Reading,
    Scale,
    exact,
    step_subject,
    unjudged,
)
from ckptaudit.rollouts.run import RunSoFar, Series

if TYPE_CHECKING:
    from ckptaudit.rollouts.batches import StepRows

TOLERANCE = 1e-3
FEW_GROUPS, POOLED_GROUPS = 8, 12
"""Below the first a share of groups says nothing of a run; steps with fewer than the second are taken together."""
STRONG = 0.9
"""A correlation of this much is the same order, but for what was added to a reward after it was logged."""
NEEDS = ("group_id", "reward", "advantage")


def _metric(
    name: str,
    formula: str,
    source: str,
    scale: Scale = "difference",
    per: tuple[Per, ...] = ("step",),
    of_what: str = "",
) -> Metric:
    return Metric(
        name=name, unit="1", formula=formula, source=source, scale=scale, per=per, needs=NEEDS, of_what=of_what
    )


ERROR = _metric(
    "advantage_error",
    "max abs(logged advantage - the convention's, from the group's rewards) beyond float32's rounding; "
    "undeclared, the best of twelve",
    "the trainers' own formulas; docs/rollouts.md lists them",
)
SIGNS = _metric(
    "advantage_sign_flips",
    "samples with abs(advantage) > 1e-6 whose sign is not that of reward - baseline",
    "MC-GRPO (arXiv:2601.22582): advantage sign flips; strict, as all conventions share the sign",
    "count",
)
REVERSED = _metric(
    "reversed_group_share",
    "P(correlation of advantage and reward within a group <= -0.9) over groups in which both differ; of the run, "
    "the largest over steps, as many of them together as it takes to have 12 groups",
    "ours: advantages fall as rewards rise where rewards, advantages or the loss were negated",
    "share",
    ("step", "run"),
)
BOUND = _metric(
    "advantage_bound",
    "max abs(advantage) / ((n - 1) / sqrt n), n the size of the group, or what it should be: the declared one, or "
    "the largest of the step",
    "the largest z-score of n values with deviation over n - 1",
    "size",
    of_what="advantage that its group's deviation scales, as the bound needs",
)
SUM = _metric(
    "advantage_group_sum",
    "max over groups of abs(sum of advantages) / (n max(1, max abs(advantage)))",
    "Group-relative REINFORCE (arXiv:2509.24203): centred advantages",
    of_what="advantage that is centred on its group's mean",
)
REFERENCE = _metric(
    "reference_advantage_error",
    "advantage_error over the samples whose stop_reason is reference",
    "GRAO (arXiv:2508.07750): the reference answer is a member of the group",
    of_what="sample whose stop_reason is reference",
)
NOT_FINITE = Metric(
    name="advantage_not_finite_count",
    unit="samples",
    formula="samples whose advantage is logged and is NaN or infinite, at any token",
    source="the loss and its gradient are NaN as well",
    scale="count",
    per=("step",),
    needs=("advantage", "advantages"),
    one_suffices=True,
)
METRICS = (ERROR, SIGNS, REVERSED, BOUND, SUM, REFERENCE, NOT_FINITE)


def begin_step(facts: RunFacts, wanted: frozenset[str]) -> Advantages:
    """Rewards and advantages of a step."""
    return Advantages(facts, wanted)


class Advantages:
    """Gathers rewards and advantages by group, and recomputes them once the step is complete."""

    def __init__(self, facts: RunFacts, wanted: frozenset[str]) -> None:
        self._declared, self._size, self._wanted = facts.advantage, facts.group_size, wanted
        self._gatherer = GroupGatherer("reward", "advantage")
        self._logged, self._unfit, self._worst = 0, 0, Furthest()

    def add(self, rows: StepRows) -> None:
        """Take in some rows."""
        self._add_not_finite(rows)
        if rows.has(*NEEDS):
            self._gatherer.add(rows, reference=_references(rows), length=rows.response_lengths)

    def _add_not_finite(self, rows: StepRows) -> None:
        logged, wrong = rows.not_finite("advantage")
        if rows.has("advantages"):  # of a sample that has one at each token
            by_token = rows.lengths("advantages") >= 0
            logged, wrong = max(logged, int(by_token.sum())), wrong | rows.not_finite_in("advantages")
        if logged:
            self._logged += logged
            self._unfit += int(wrong.sum())
            self._worst.add(wrong.astype(float), rows.names)

    def readings(self, step: int) -> Iterator[Reading]:
        """What the step's groups say."""
        subject = step_subject(step)
        if self._logged:
            yield exact(NOT_FINITE, subject, self._unfit, self._logged, self._worst.names)
        table = self._gatherer.gathered()
        if table is None:
            return
        table = table.where(np.isfinite(table.values["reward"]))
        logged = np.isfinite(table.values["advantage"])
        if not logged.any():
            if self._unfit:
                for metric in (ERROR, SIGNS, BOUND, SUM):
                    yield unjudged(metric, subject, "no advantage of a sample with a reward is a finite number")
            return
        error, convention, fits = self._fit(table, logged)
        told = logged & (np.abs(table.values["advantage"]) > TOLERANCE)
        # A bound of one convention says nothing of another that none here fits.
        is_known = self._declared is not None or 2 * int((error[told] <= TOLERANCE).sum()) >= int(told.sum())
        remark = self._remark(convention, float(error[logged].max()))
        parts = [Part(value, 0.0, int(logged.sum())) for value in fits.values()]
        yield _worst(ERROR, subject, table, np.where(logged, error, 0.0), remark, parts)
        yield _signs(subject, table, convention)
        yield _reversed(subject, table)
        if convention in SCALED_BY_DEVIATION and is_known:
            yield _bound(subject, table, self._size or int(table.sizes.max()))
        if convention in CENTRED and logged.all():
            yield _sum(subject, table, convention)
        reference = table.values["reference"].astype(bool) & logged
        if reference.any():
            yield _worst(REFERENCE, subject, table, np.where(reference, error, 0.0), remark)

    def _fit(self, table: GroupTable, logged: Array) -> tuple[Array, str, dict[str, float]]:
        tried = (self._declared,) if self._declared else tuple(CONVENTIONS)
        found = errors(table, tried)
        fits = {name: float(np.nan_to_num(error[logged], nan=np.inf).max()) for name, error in found.items()}
        # Few samples that are far off must not decide what all others were made by.
        off = {name: int((~(error[logged] <= TOLERANCE)).sum()) for name, error in found.items()}
        best = min(fits, key=lambda name: (off[name], fits[name]))
        return np.nan_to_num(found[best], nan=np.inf), best, fits

    def _remark(self, convention: str, error: float) -> str:
        if self._declared:
            return f"as {convention} declares"
        if error <= TOLERANCE:
            return f"no convention is declared; {convention} fits"
        return f"no convention is declared and none fits; {convention} is nearest"


def _references(rows: StepRows) -> Array:
    if not rows.has("stop_reason"):
        return np.zeros(rows.count, dtype=bool)
    return np.array([reason == "reference" for reason in rows.rows.column("stop_reason").to_pylist()])


def _worst(
    metric: Metric, subject: str, table: GroupTable, error: Array, remark: str, parts: list[Part] | None = None
) -> Reading:
    worst = Furthest()
    worst.add(np.where(error > TOLERANCE, error, 0.0), table.samples)
    reading = exact(metric, subject, float(error.max()), len(error), worst.names, remark)
    return reading if parts is None else _with_parts(reading, parts)


def _with_parts(reading: Reading, parts: list[Part]) -> Reading:
    import msgspec

    return msgspec.structs.replace(reading, parts=tuple(parts))


def _signs(subject: str, table: GroupTable, convention: str) -> Reading:
    rewards, advantages = table.values["reward"], table.values["advantage"]
    zero = baseline(table, convention)
    size = np.maximum(np.abs(rewards), np.abs(zero))
    difference = np.where(np.abs(rewards - zero) <= 1e-6 * np.maximum(size, 1e-3), 0.0, rewards - zero)
    flipped = (np.sign(advantages) != np.sign(difference)) & (np.abs(advantages) > 1e-6) & (table.members > 1)
    # Where the reward is its own baseline, float32 may leave a sign on what should be 0.
    flipped &= (difference != 0) | (np.abs(advantages) > TOLERANCE + rounding(table, convention))
    worst = Furthest()
    worst.add(np.where(flipped, np.abs(advantages), 0.0), table.samples)
    return exact(SIGNS, subject, int(flipped.sum()), len(rewards), worst.names)


def _reversed(subject: str, table: GroupTable) -> Reading:
    """Needs no baseline, so that it holds for every convention, the right one or not."""
    table = table.where(np.isfinite(table.values["advantage"]))
    first, second = (table.values[name] - table.means(table.values[name]) for name in ("reward", "advantage"))
    norms = [np.sqrt(table.sums(values * values)) for values in (first, second)]
    largest = [table.extremes(np.abs(table.values[name]))[1] for name in ("reward", "advantage")]
    differ = (table.sizes > 1) & (norms[0] > 1e-6 * largest[0]) & (norms[1] > 1e-6 * largest[1])
    if not differ.any():
        return unjudged(REVERSED, subject, f"{NONE_HERE}group whose rewards and advantages differ")
    hits = differ & (table.sums(first * second) <= -STRONG * norms[0] * norms[1])
    worst = [table.names[place] for place in np.flatnonzero(hits)[:3]]
    return exact(REVERSED, subject, float(hits.sum() / differ.sum()), int(differ.sum()), worst)


def run_readings(run: RunSoFar) -> Iterator[Reading]:
    """The largest share of reversed groups in any stretch of steps that has enough of them."""
    if REVERSED.name not in run.wanted:
        return
    stretches = _stretches(run.judged(REVERSED.name))
    if stretches:
        share, groups, first, last = max(stretches)
        where = step_subject(first) if first == last else f"steps {first} to {last}"
        yield exact(
            REVERSED, "run", share, groups, remark=f"{round(share * groups):,} of {groups:,} groups at {where}"
        )
    elif why := run.why_none(REVERSED.name):
        yield unjudged(REVERSED, "run", why)
    else:
        yield unjudged(REVERSED, "run", f"{NONE_HERE}{FEW_GROUPS} groups whose rewards and advantages differ")


def _stretches(series: Series) -> list[tuple[float, int, int, int]]:
    """Share, groups, first and last step of stretches of POOLED_GROUPS groups; a small rest belongs to the last."""
    found: list[tuple[float, int, int, int]] = []
    hits, groups, first = 0.0, 0, 0
    for step, reading in series:
        first = first if groups else step
        hits, groups = hits + (reading.value or 0.0) * reading.samples, groups + reading.samples
        if groups >= POOLED_GROUPS:
            found.append((hits / groups, groups, first, step))
            hits, groups = 0.0, 0
    if groups >= FEW_GROUPS:
        found.append((hits / groups, groups, first, series[-1][0]))
    elif groups and found:
        share, before, first, _ = found[-1]
        found[-1] = ((share * before + hits) / (before + groups), before + groups, first, series[-1][0])
    return found


def _bound(subject: str, table: GroupTable, usual: int) -> Reading:
    """Rows may be lost after their group was scaled, so that `usual` is what the group had if it has fewer now."""
    several = table.members > 1
    sizes = np.maximum(table.members, usual)
    if not several.any():
        return unjudged(BOUND, subject, NO_GROUPS, len(sizes))
    share = np.abs(table.values["advantage"]) / np.maximum((sizes - 1) / np.sqrt(sizes), 0.5)
    share = np.where(several & np.isfinite(share), share, 0.0)
    worst = Furthest()
    worst.add(np.where(share > 1 + TOLERANCE, share, 0.0), table.samples)
    return exact(BOUND, subject, float(share.max()), len(sizes), worst.names)


def _sum(subject: str, table: GroupTable, convention: str) -> Reading:
    advantages = table.values["advantage"]
    _, largest = table.extremes(np.abs(advantages))
    filled = table.sizes > 1
    if not filled.any():
        return unjudged(SUM, subject, NO_GROUPS, len(advantages))
    beyond = np.maximum(np.abs(table.sums(advantages)) - table.sums(rounding(table, convention)), 0.0)
    off = beyond / np.maximum(table.sizes * np.maximum(largest, 1.0), 1.0)
    off = np.where(filled, off, 0.0)
    worst = Furthest()
    worst.add(np.where(off > 1e-4, off, 0.0), np.asarray(table.names, dtype=object))
    return exact(SUM, subject, float(off.max()), int(filled.sum()), worst.names)
