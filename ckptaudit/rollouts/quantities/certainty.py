"""Whether the policy has stopped looking: groups in which every sample gives one answer, and not the best one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.groups import Array, GroupGatherer, GroupTable, answers_of
from ckptaudit.rollouts.readings import (
    NO_GROUPS,
    NONE_HERE,
    Metric,
    Reading,
    estimate,
    exact,
    step_subject,
    unjudged,
)
from ckptaudit.rollouts.run import RunSoFar

if TYPE_CHECKING:
    from ckptaudit.rollouts.batches import StepRows

NEEDS = ("group_id", "reward")
SAME = 1e-9
"""Rewards that differ by less, relative to the largest, are equal."""

ONE_ANSWER = Metric(
    name="one_answer_share", unit="1", formula="P(all answers of a group are the same)",
    source="ours: a group of one answer has no advantages", scale="share", per=("step",), needs=NEEDS,
)  # fmt: skip
BELOW = Metric(
    name="one_lesser_answer_share", unit="1",
    formula="P(all answers of a group are the same, and get less than the highest reward of the step)",
    source="ours", scale="share", per=("step",), needs=NEEDS,
)  # fmt: skip
HIGHEST = Metric(
    name="reward_highest", unit="1", formula="max(reward) over samples in groups", source="ours", scale="size",
    per=("step",), needs=NEEDS,
)  # fmt: skip
LOWEST = Metric(
    name="reward_lowest", unit="1", formula="min(reward) over samples in groups", source="ours", scale="size",
    per=("step",), needs=NEEDS,
)  # fmt: skip
MEAN = Metric(
    name="group_reward_mean", unit="1", formula="mean(reward) over samples in groups", source="ours", scale="size",
    per=("step",), needs=NEEDS,
)  # fmt: skip
STUCK = Metric(
    name="stuck_group_share",
    unit="1",
    formula="P(all answers of a group are the same, and get less than the highest reward of the run) over the last "
    "tenth of the steps; 0 where their mean reward lies in the upper half of all rewards of the run",
    source="public reports of runs whose groups no longer differ (huggingface/trl#3857, modelscope/ms-swift#4570)",
    scale="share",
    per=("run",),
    needs=NEEDS,
    rests_on=(ONE_ANSWER.name, BELOW.name, HIGHEST.name, LOWEST.name, MEAN.name),
    deviations=3.0,
)
METRICS = (ONE_ANSWER, BELOW, HIGHEST, LOWEST, MEAN, STUCK)


def begin_step(facts: RunFacts, wanted: frozenset[str]) -> Certainty:
    """The groups of a step."""
    return Certainty()


class Certainty:
    """Gathers rewards and digests of answers by group."""

    def __init__(self) -> None:
        self._gatherer = GroupGatherer("reward")

    def add(self, rows: StepRows) -> None:
        """Take in rows whose answers are there."""
        answers = answers_of(rows)
        if answers is not None:
            self._gatherer.add(rows, answer=answers)

    def readings(self, step: int) -> Iterator[Reading]:
        """Two shares of the groups of several samples with rewards, and what they are rewarded."""
        table = self._gatherer.gathered()
        if table is None:
            return
        table = table.where(np.isfinite(table.values["reward"]))
        several = table.sizes > 1
        subject = step_subject(step)
        if not several.any():
            for metric in (ONE_ANSWER, BELOW, HIGHEST, LOWEST, MEAN):
                yield unjudged(metric, subject, NO_GROUPS)
            return
        rewards = table.values["reward"]
        one, (least, best) = _one_answer(table)[several], (edge[several] for edge in table.extremes(rewards))
        highest = float(best.max())
        yield exact(ONE_ANSWER, subject, float(one.mean()), len(one))
        yield exact(BELOW, subject, float((one & _is_less(best, highest)).mean()), len(one))
        yield exact(HIGHEST, subject, highest, len(one))
        yield exact(LOWEST, subject, float(least.min()), len(one))
        yield exact(MEAN, subject, float(rewards[several[table.group]].mean()), len(one))


def _one_answer(table: GroupTable) -> Array:
    """Whether all samples of a group have the same digest."""
    low, high = table.extremes(table.values["answer"])
    return np.equal(low, high)


def _is_less(rewards: Array, highest: float) -> Array:
    return rewards < highest - SAME * max(1.0, abs(highest))


def run_readings(run: RunSoFar) -> Iterator[Reading]:
    """The share at the end of the run, by the highest reward that was ever seen."""
    if STUCK.name not in run.wanted:
        return
    rows = list(zip(*(run.judged(metric) for metric in STUCK.rests_on), strict=True))
    if not rows:
        why = run.why_none(ONE_ANSWER.name)
        yield unjudged(STUCK, "run", why or f"{NONE_HERE}rewarded group whose answers were logged")
        return
    values = [[reading.value or 0.0 for _, reading in row] for row in rows]
    highest, lowest = max(row[2] for row in values), min(row[3] for row in values)
    groups, stuck, rewards = 0, 0.0, 0.0
    for row, (one, below, best, _, mean) in list(zip(rows, values, strict=True))[-max(1, round(len(rows) / 10)) :]:
        here, lesser = row[0][1].samples, bool(_is_less(np.array([best]), highest)[0])
        groups += here
        stuck += here * (one if lesser else below)
        rewards += here * mean
    if rewards / groups >= (lowest + highest) / 2:
        # What the best answer is worth may depend on the question or on its length.
        remark = f"a mean reward of {rewards / groups:.4g}, in the upper half of {lowest:.4g} to {highest:.4g}"
        yield exact(STUCK, "run", 0.0, groups, remark=remark)
        return
    yield _stuck(stuck, groups, highest)


def _stuck(stuck: float, groups: int, highest: float) -> Reading:
    # As if two more groups were stuck and two more were not (Agresti and Coull 1998): few groups tell little.
    share = (stuck + 2) / (groups + 4)
    error = math.sqrt(share * (1 - share) / (groups + 4))
    remark = f"{round(stuck):,} of {groups:,} groups; the highest reward of the run is {highest:.4g}"
    return estimate(STUCK, "run", stuck / groups, error, groups, (), remark)
