"""What the run's rewards would be under the trainer's weights: a report without a limit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.moments import Array
from ckptaudit.rollouts.quantities.mismatch import IDENTICAL, PAIR
from ckptaudit.rollouts.readings import Metric, Reading, estimate, step_subject, unjudged

if TYPE_CHECKING:
    from ckptaudit.rollouts.batches import StepRows

REWARD = Metric(
    name="self_normalised_reward",
    unit="1",
    formula="sum(w r) / sum(w), w = exp(sum_t l_t) of each sequence",
    source="stands in for Uni-O4's offline policy evaluation (arXiv:2311.03351), whose model is not logged",
    scale="size",
    per=("step",),
    needs=(*PAIR, "reward"),
)
METRICS = (REWARD,)


def begin_step(facts: RunFacts, wanted: frozenset[str]) -> Offline:
    """Weights and rewards of a step."""
    return Offline()


class Offline:
    """Log-weight and reward of each sequence."""

    def __init__(self) -> None:
        self._logs: list[Array] = []
        self._rewards: list[Array] = []

    def add(self, rows: StepRows) -> None:
        """Take in some rows."""
        tokens = rows.tokens(*PAIR)
        if tokens is None or not tokens.count or not rows.has("reward"):
            return
        rewards = rows.numbers("reward")[tokens.row]
        known = np.isfinite(rewards)
        self._logs.append(tokens.by_sequence(tokens.log_ratio)[known])
        self._rewards.append(rewards[known])

    def readings(self, step: int) -> Iterator[Reading]:
        """The weighted reward with its effective sample size."""
        logs = np.concatenate([np.zeros(0), *self._logs])
        if not len(logs):
            return
        subject = step_subject(step)
        if not logs.any():
            yield unjudged(REWARD, subject, IDENTICAL, len(logs))
            return
        rewards = np.concatenate(self._rewards)
        weights = np.exp(logs - logs.max())
        weights /= weights.sum()
        value = float(weights @ rewards)
        error = float(np.sqrt(weights**2 @ (rewards - value) ** 2))
        size = 1.0 / float(weights @ weights)
        remark = f"plain mean {rewards.mean():.4g}; effective sample size {size:.1f} of {len(rewards)}"
        yield estimate(REWARD, subject, value, error, len(rewards), remark=remark)
