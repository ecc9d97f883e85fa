"""Whether the log-probabilities can be what they claim to be at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.moments import Furthest
from ckptaudit.rollouts.readings import Metric, Reading, exact, step_subject

if TYPE_CHECKING:
    from ckptaudit.rollouts.batches import StepRows

LARGEST_LOGP = 1e-6
"""What rounding may leave above 0, the logarithm of certainty."""
SIDES = ("logp_rollout", "logp_train")

IMPOSSIBLE = Metric(
    name="logp_impossible_count",
    unit="tokens",
    formula="entries of logp_rollout and logp_train that are NaN, infinite or > 1e-6",
    source="a log-probability is finite and at most 0",
    scale="count",
    per=("step",),
    needs=SIDES,
    one_suffices=True,
)
ZERO_SHARE = Metric(
    name="logp_zero_share",
    unit="1",
    formula="max over both sides of P(log-probability = 0 exactly)",
    source="ours: a token that is sure is rare, a value that was never written is 0",
    scale="share",
    per=("step",),
    needs=SIDES,
)
ZERO_DIFFERENCE = Metric(
    name="logp_zero_difference",
    unit="1",
    formula="abs(P(logp_rollout = 0) - P(logp_train = 0))",
    source="ours: what is sure is sure on both sides",
    scale="difference",
    per=("step",),
    needs=SIDES,
)
MISALIGNED = Metric(
    name="misaligned_count",
    unit="samples",
    formula="samples whose token ids, mask, log-probabilities, entropies differ in length",
    source="entry t of every list belongs to token t",
    scale="count",
    per=("step",),
    needs=("logp_rollout",),
)
REWARD = Metric(
    name="reward_not_finite_count",
    unit="samples",
    formula="rewards that are logged and are NaN or infinite",
    source="a mean and a deviation over them are NaN as well",
    scale="count",
    per=("step",),
    needs=("reward",),
)
METRICS = (IMPOSSIBLE, ZERO_SHARE, ZERO_DIFFERENCE, MISALIGNED, REWARD)


def begin_step(facts: RunFacts, wanted: frozenset[str]) -> Integrity:
    """Counts over a step."""
    return Integrity(wanted)


class Integrity:
    """Counts over the rows of a step."""

    def __init__(self, wanted: frozenset[str]) -> None:
        self._wanted = wanted
        self._entries = dict.fromkeys(SIDES, 0)
        self._zeros = dict.fromkeys(SIDES, 0)
        self._impossible, self._misaligned, self._samples = 0, 0, 0
        self._rewarded, self._unrewarded, self._unfit = 0, 0, Furthest()
        self._worst, self._unequal = Furthest(), Furthest()

    def add(self, rows: StepRows) -> None:
        """Count impossible and zero entries of both sides, and samples whose lists disagree."""
        self._samples += rows.count
        self._count_rewards(rows)
        self._misaligned += int((~rows.aligned).sum())
        self._unequal.add((~rows.aligned).astype(float), rows.names)
        if self._wanted - {MISALIGNED.name, REWARD.name}:
            for side in SIDES:
                if rows.has(side):
                    self._count(rows, side)

    def _count_rewards(self, rows: StepRows) -> None:
        if REWARD.name not in self._wanted or not rows.has("reward"):
            return
        logged, wrong = rows.not_finite("reward")
        self._rewarded += logged
        self._unrewarded += int(wrong.sum())
        self._unfit.add(wrong.astype(float), rows.names)

    def _count(self, rows: StepRows, side: str) -> None:
        values, keep = _logged(rows, side)
        there = values if keep is None else values[keep]
        self._entries[side] += len(there)
        self._zeros[side] += len(there) - int(np.count_nonzero(there))
        # NaN carries over into either end.
        if len(there) and not (there.max() <= LARGEST_LOGP and there.min() > -np.inf):
            wrong = ~(values <= LARGEST_LOGP) | np.isneginf(values)
            wrong = wrong if keep is None else wrong & keep
            self._impossible += int(wrong.sum())
            sequence = np.repeat(np.arange(rows.count), np.maximum(rows.lengths(side), 0))
            self._worst.add(np.bincount(sequence[wrong], minlength=rows.count).astype(float), rows.names)

    def readings(self, step: int) -> Iterator[Reading]:
        """The four counts and shares."""
        subject, entries = step_subject(step), sum(self._entries.values())
        yield exact(MISALIGNED, subject, self._misaligned, self._samples, self._unequal.names)
        if self._rewarded:
            yield exact(REWARD, subject, self._unrewarded, self._rewarded, self._unfit.names)
        if entries:
            yield exact(IMPOSSIBLE, subject, self._impossible, entries, self._worst.names)
        if not all(self._entries.values()):
            return
        rollout, train = (self._zeros[side] / self._entries[side] for side in SIDES)
        yield exact(ZERO_SHARE, subject, max(rollout, train), entries)
        remark = f"{rollout:.3g} of the engine's, {train:.3g} of the trainer's"
        yield exact(ZERO_DIFFERENCE, subject, abs(rollout - train), entries, remark=remark)


def _logged(rows: StepRows, side: str) -> tuple[np.ndarray, np.ndarray | None]:
    """All entries of a side, and which are there and count for the loss; None for all."""
    flat = rows.rows.column(side).flatten()
    values = flat.to_numpy(zero_copy_only=False)
    keep = rows.counted(np.maximum(rows.lengths(side), 0))
    if flat.null_count:
        valid = flat.is_valid().to_numpy(zero_copy_only=False)
        keep = valid if keep is None else keep & valid
    return values, keep
