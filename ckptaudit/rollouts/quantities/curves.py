"""The trainer's own curves: finite, without spikes, and in agreement with the rollouts they summarise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from ckptaudit.errors import parameter
from ckptaudit.rollouts.quantities.trends import MIN_BEFORE, WINDOW, largest_jump
from ckptaudit.rollouts.readings import Metric, Reading, exact, step_subject, unjudged
from ckptaudit.rollouts.run import RunSoFar

COMPARED = {
    "reward_mean": "reward_mean",
    "len_mean": "response_length",
    "mismatch_k3": "mismatch_k3",
    "mismatch_abs": "mismatch_abs",
    "clip_share": "clip_share",
    "entropy": "entropy_mean",
}
"""Canonical scalar, and the metric of the rollouts that must equal it."""
NO_CURVE = "no {} among the trainer's curves; " + f"pass them with {parameter('scalars')}"

NOT_FINITE = Metric(
    name="scalar_not_finite_count",
    unit="values",
    formula="logged scalars that are NaN or infinite, but for an infinite gradient norm before a finite one",
    source="a training that computes; TRL may leave a NaN loss out of its history, not a NaN gradient norm",
    scale="count",
    per=("run",),
)
SPIKE = Metric(
    name="grad_norm_spike",
    unit="1",
    formula=f"max over steps of the gradient norm / median of the {WINDOW} steps before",
    source="ours; public reports show about 100",
    scale="size",
    per=("run",),
)
DISAGREEMENT = Metric(
    name="scalar_disagreement",
    unit="1",
    formula="max over steps and curves of abs(logged - recomputed) / max(abs(recomputed), 1e-3): reward, length, "
    "k3, abs(l), clip share, entropy",
    source="a curve is to summarise the rollouts",
    scale="difference",
    per=("run",),
    rests_on=tuple(COMPARED.values()),
)
METRICS = (NOT_FINITE, SPIKE, DISAGREEMENT)


def run_readings(run: RunSoFar) -> Iterator[Reading]:
    """What the curves say, alone and beside the rollouts."""
    if NOT_FINITE.name in run.wanted:
        yield _not_finite(run)
    if SPIKE.name in run.wanted:
        yield _spike(run)
    if DISAGREEMENT.name in run.wanted:
        yield _disagreement(run)


def _not_finite(run: RunSoFar) -> Reading:
    if not run.scalars:
        return unjudged(NOT_FINITE, "run", NO_CURVE.format("curve"))
    values = [(name, step, value) for name, curve in run.scalars.items() for step, value in curve.items()]
    finite = [step for step, value in run.scalars.get("grad_norm", {}).items() if math.isfinite(value)]
    last = max(finite, default=-math.inf)
    wrong, skipped = [], 0
    for name, step, value in values:
        # Loss scaling in float16 finds its scale by overflows, whose updates are skipped: training went on.
        if name == "grad_norm" and value == math.inf and step < last:
            skipped += 1
        elif not math.isfinite(value):
            wrong.append(f"{name} at step {step}")
    remark = (
        f"{skipped} infinite gradient norms before a finite one are taken for skipped updates" if skipped else ""
    )
    return exact(NOT_FINITE, "run", len(wrong), len(values), wrong[:3], remark)


def _spike(run: RunSoFar) -> Reading:
    curve = {step: value for step, value in run.scalars.get("grad_norm", {}).items() if math.isfinite(value)}
    steps = sorted(curve)
    jump = largest_jump([curve[step] for step in steps])
    if jump is None:
        few = f"the gradient norm is logged for {len(steps)} steps; at least {MIN_BEFORE + 1} are needed"
        return unjudged(SPIKE, "run", few if steps else NO_CURVE.format("gradient norm"), len(steps))
    return exact(SPIKE, "run", jump[1], len(steps), (step_subject(steps[jump[0]]),))


def _disagreement(run: RunSoFar) -> Reading:
    steps = sorted(run.steps)
    if not run.whole_steps and any(b - a > 1 for a, b in itertools.pairwise(steps)):
        remark = "the rollouts are the last batch of a window of steps that the curves average over"
        return unjudged(DISAGREEMENT, "run", remark, len(steps))
    found = []
    for scalar, metric in COMPARED.items():
        curve = run.scalars.get(scalar, {})
        for step, reading in run.judged(metric):
            if step in curve and math.isfinite(curve[step]) and reading.value is not None and reading.samples:
                off = abs(curve[step] - reading.value) / max(abs(reading.value), 1e-3)
                found.append((off, scalar, step, curve[step], reading.value))
    if not found:
        return unjudged(DISAGREEMENT, "run", "no curve belongs to a quantity and step of the rollouts")
    worst = sorted(found, reverse=True)[:3]
    off, scalar, step, logged, recomputed = worst[0]
    remark = f"{scalar} at step {step}: logged {logged:.6g}, recomputed {recomputed:.6g}"
    return exact(DISAGREEMENT, "run", off, len(found), [f"{w[1]} at step {w[2]}" for w in worst], remark)
