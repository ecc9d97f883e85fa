"""Whether the groups are groups: complete, of one prompt each, and of rewards that differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.groups import Array, GroupGatherer, GroupTable, answers_of
from ckptaudit.rollouts.readings import (
    NO_GROUPS,
    Metric,
    Per,
    Reading,
    Scale,
    estimate,
    exact,
    step_subject,
    unjudged,
)
from ckptaudit.rollouts.run import RunSoFar, tenths

if TYPE_CHECKING:
    from ckptaudit.rollouts.batches import StepRows


def _metric(
    name: str, unit: str, formula: str, source: str, scale: Scale, per: tuple[Per, ...] = ("step",), more: str = ""
) -> Metric:
    needs = ("group_id", *(more.split()))
    return Metric(name=name, unit=unit, formula=formula, source=source, scale=scale, per=per, needs=needs)


SIZE = _metric(
    "group_size_count", "groups", "groups whose number of samples is not the declared group_size",
    "the group's size enters mean and deviation", "count",
)  # fmt: skip
PROMPT = _metric(
    "group_prompt_count", "groups", "groups with more than one prompt",
    "a baseline compares answers to one question", "count",
)  # fmt: skip
ZERO_VARIANCE = _metric(
    "zero_variance_share", "1", "P(all rewards of a group are equal); such a group has no gradient",
    "TRL frac_reward_zero_std; slime rollout/zero_std", "share", ("step", "run"), "reward",
)  # fmt: skip
NOISE = _metric(
    "baseline_sign_share", "1", "P((reward - group mean) (reward - group median) < 0) over samples",
    "MC-GRPO (arXiv:2601.22582): sign flips against another baseline", "share", more="reward",
)  # fmt: skip
DUPLICATES = _metric(
    "duplicate_share", "1", "(n - distinct responses) / (n - 1), mean over groups of n",
    "ours: 1 where every answer of each group is the same", "share",
)  # fmt: skip
LENGTH_REWARD = _metric(
    "length_reward_correlation", "1", "abs(Spearman(reward, length) within groups, mean weighted by size)",
    "ours: pooled over groups it would mix in how hard the prompts are", "size", more="reward",
)  # fmt: skip
METRICS = (SIZE, PROMPT, ZERO_VARIANCE, NOISE, DUPLICATES, LENGTH_REWARD)
MIN_GROUPS = 4


def begin_step(facts: RunFacts, wanted: frozenset[str]) -> Groups:
    """The groups of a step."""
    return Groups(facts, wanted)


class Groups:
    """Gathers rewards, lengths and digests of prompts and responses by group."""

    def __init__(self, facts: RunFacts, wanted: frozenset[str]) -> None:
        self._declared, self._wanted = facts.group_size, wanted
        self._gatherer = GroupGatherer("reward")
        self._answers = False

    def add(self, rows: StepRows) -> None:
        """Take in some rows."""
        answers = answers_of(rows) if DUPLICATES.name in self._wanted else None
        self._answers = self._answers or answers is not None
        unknown = np.zeros(rows.count, dtype=np.int64)
        prompts = np.array([hash(value) for value in rows.rows.column("prompt_hash").to_pylist()], dtype=np.int64)
        self._gatherer.add(
            rows, prompt=prompts, length=rows.response_lengths, answer=unknown if answers is None else answers
        )

    def readings(self, step: int) -> Iterator[Reading]:
        """What the step's groups say."""
        table = self._gatherer.gathered()
        if table is None:
            return
        subject = step_subject(step)
        yield self._sizes(subject, table)
        yield _prompts(subject, table)
        if self._answers:
            yield _duplicates(subject, table)
        rewarded = table.where(np.isfinite(table.values["reward"]))
        if len(rewarded.group):
            yield _zero_variance(subject, rewarded)
            yield _noise(subject, rewarded)
            yield _length_reward(subject, rewarded)

    def _sizes(self, subject: str, table: GroupTable) -> Reading:
        usual = self._declared or int(np.bincount(table.sizes).argmax())
        wrong = table.sizes != usual
        said = "declared" if self._declared else "the most common; declare group_size"
        worst = [table.names[place] for place in np.flatnonzero(wrong)[:3]]
        return exact(SIZE, subject, int(wrong.sum()), len(wrong), worst, f"{usual} is {said}")


def _prompts(subject: str, table: GroupTable) -> Reading:
    first = np.zeros(len(table.names), dtype=np.int64)
    first[table.group[::-1]] = table.values["prompt"][::-1]
    differs = np.zeros(len(table.names), dtype=bool)
    differs[table.group[table.values["prompt"] != first[table.group]]] = True
    worst = [table.names[place] for place in np.flatnonzero(differs)[:3]]
    return exact(PROMPT, subject, int(differs.sum()), len(differs), worst)


def _share(metric: Metric, subject: str, hits: Array, remark: str = "") -> Reading:
    count = len(hits)
    mean = float(hits.mean())
    error = float(hits.std(ddof=1) / np.sqrt(count)) if count > 1 else 0.0
    return estimate(metric, subject, mean, error, count, (), remark)


def _zero_variance(subject: str, table: GroupTable) -> Reading:
    low, high = table.extremes(table.values["reward"])
    several = table.sizes > 1
    if not several.any():
        return unjudged(ZERO_VARIANCE, subject, NO_GROUPS, len(several))
    return _share(ZERO_VARIANCE, subject, (low == high)[several].astype(float))


def _noise(subject: str, table: GroupTable) -> Reading:
    rewards = table.values["reward"]
    if len(np.unique(rewards)) <= 2:
        return unjudged(NOISE, subject, "with two values of the reward no baseline between them changes a sign")
    mean, median = np.sign(rewards - table.means(rewards)), np.sign(rewards - table.medians(rewards))
    return _share(NOISE, subject, (mean * median < 0).astype(float))


def _duplicates(subject: str, table: GroupTable) -> Reading:
    order = np.lexsort((table.values["answer"], table.group))
    group, answer = table.group[order], table.values["answer"][order]
    new = np.concatenate(([True], (group[1:] != group[:-1]) | (answer[1:] != answer[:-1])))
    distinct = np.bincount(group[new], minlength=len(table.names))
    several = table.sizes > 1
    if not several.any():
        return unjudged(DUPLICATES, subject, NO_GROUPS, len(several))
    return _share(DUPLICATES, subject, ((table.sizes - distinct) / np.maximum(table.sizes - 1, 1))[several])


def _length_reward(subject: str, table: GroupTable) -> Reading:
    table = table.where(np.isfinite(table.values["length"]))
    found = _correlations(table) if len(table.group) else np.zeros((0, 2))
    if len(found) < MIN_GROUPS:
        remark = f"in {len(found)} groups both reward and length vary; at least {MIN_GROUPS} are needed"
        return unjudged(LENGTH_REWARD, subject, remark, len(found))
    values, weights = found.T
    mean = float(values @ weights / weights.sum())
    error = float(np.sqrt(weights**2 @ (values - mean) ** 2) / weights.sum())
    side = "longer answers are rewarded" if mean > 0 else "shorter answers are rewarded"
    return estimate(LENGTH_REWARD, subject, abs(mean), error, len(found), (), side)


def _correlations(table: GroupTable) -> Array:
    """Spearman's correlation and the size of every group in which reward and length vary, shape (groups, 2)."""
    first, second = (table.ranks(table.values[name]) for name in ("reward", "length"))
    first, second = first - table.means(first), second - table.means(second)
    below = np.sqrt(table.sums(first * first) * table.sums(second * second))
    varied = below > 1e-9
    with np.errstate(divide="ignore", invalid="ignore"):
        values = table.sums(first * second) / below
    return np.stack((values[varied], table.sizes[varied].astype(float)), axis=1)


def run_readings(run: RunSoFar) -> Iterator[Reading]:
    """The share of dead groups at the end of the run."""
    values = run.values(ZERO_VARIANCE.name)
    if ZERO_VARIANCE.name in run.wanted and values:
        yield exact(
            ZERO_VARIANCE, "run", tenths(values)[1], len(values), remark="median of the last tenth of steps"
        )
