"""Which steps have rollouts, and which do not."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

from ckptaudit.errors import parameter
from ckptaudit.rollouts.readings import Metric, Reading, exact, step_subject, unjudged
from ckptaudit.rollouts.run import RunSoFar

MISSING = Metric(
    name="missing_step_count",
    unit="steps",
    formula="steps between the first and the last without rollouts, at the most common distance of steps",
    source="a log without gaps",
    scale="count",
    per=("run",),
)
UNSUPPORTED = Metric(
    name="uncovered_checkpoint_count",
    unit="checkpoints",
    formula="saved checkpoints with no rollouts between the checkpoint before and their own step",
    source="each checkpoint is to have rollouts that it was learnt from",
    scale="count",
    per=("run",),
    of_what=f"checkpoints whose steps are known: give several of it as {parameter('tuned')}",
)
METRICS = (MISSING, UNSUPPORTED)


def run_readings(run: RunSoFar) -> Iterator[Reading]:
    """Gaps between steps, and checkpoints that no rollouts stand behind."""
    if MISSING.name in run.wanted:
        yield _gaps(sorted(run.steps))
    if UNSUPPORTED.name in run.wanted and run.checkpoint_steps:
        yield _checkpoints(sorted(run.steps), sorted(run.checkpoint_steps))


def _gaps(steps: list[int]) -> Reading:
    if len(steps) < 3:
        return unjudged(MISSING, "run", "fewer than three steps", len(steps))
    distances = [after - before for before, after in itertools.pairwise(steps)]
    # The smallest of the most common distances, so that two gaps of one size do not become the rule.
    counts = Counter(distances)
    usual = min(distance for distance, count in counts.items() if count == max(counts.values()))
    missing = [before + usual for before, distance in zip(steps[:-1], distances, strict=True) if distance > usual]
    count = sum(distance // usual - 1 for distance in distances if distance > usual)
    remark = "" if usual == 1 else f"one step in {usual} is logged"
    return exact(MISSING, "run", count, len(steps), [step_subject(step) for step in missing[:3]], remark)


def _checkpoints(steps: list[int], checkpoints: list[int]) -> Reading:
    bare, before = [], -1
    for checkpoint in checkpoints:
        if not any(before < step <= checkpoint for step in steps):
            bare.append(checkpoint)
        before = checkpoint
    return exact(UNSUPPORTED, "run", len(bare), len(checkpoints), [f"checkpoint {step}" for step in bare[:3]])
