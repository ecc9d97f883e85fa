"""How the run's quantities move from its first to its last steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median

import numpy as np

from ckptaudit.rollouts.quantities.mismatch import K3, PAIR
from ckptaudit.rollouts.readings import Metric, Reading, estimate, exact, step_subject, unjudged
from ckptaudit.rollouts.run import RunSoFar, Series, tenths

WINDOW = 20
"""How many earlier steps a spike is compared with."""
MIN_BEFORE = 3

GROWTH = Metric(
    name="mismatch_growth",
    unit="1",
    formula="k3, median of the last tenth of steps / of the first tenth",
    source="NeMo-RL and prime-rl name steady growth as the sign; factor ours",
    scale="size",
    per=("run",),
    needs=PAIR,
    rests_on=(K3.name,),
)
SPIKE = Metric(
    name="mismatch_spike",
    unit="1",
    formula="max over steps of k3 / median of the 20 steps before",
    source="ALP (arXiv:2603.19470): spikes of KL; factor ours",
    scale="size",
    per=("run",),
    needs=PAIR,
    rests_on=(K3.name,),
)
ENTROPY = Metric(
    name="entropy_change",
    unit="1",
    formula="mean entropy, median of the last tenth of steps / of the first tenth; of the scalars without a column",
    source="arXiv:2505.22617 on collapse; factors ours",
    scale="size",
    per=("run",),
    rests_on=("entropy_mean",),
)
METRICS = (GROWTH, SPIKE, ENTROPY)


def run_readings(run: RunSoFar) -> Iterator[Reading]:
    """The wanted trends."""
    judged = run.judged(K3.name)
    if GROWTH.name in run.wanted and K3.name in run.seen:
        yield _growth(judged)
    if SPIKE.name in run.wanted and K3.name in run.seen:
        yield _spike(judged)
    if ENTROPY.name in run.wanted:
        yield _entropy(run)


def _growth(judged: Series) -> Reading:
    values = [reading.value or 0.0 for _, reading in judged]
    if len(values) < 2 or min(values) <= 0:
        return unjudged(GROWTH, "run", "fewer than two steps have a k3 above 0", len(values))
    first, last = tenths(values)
    size = max(1, round(len(judged) / 10))
    edges = (*judged[:size], *judged[-size:])
    relative = [(reading.standard_error or 0.0) / (reading.value or 1.0) for _, reading in edges]
    error = last / first * math.sqrt(sum(part * part for part in relative)) / size
    slope = _theil_sen([step for step, _ in judged], np.log(values))
    remark = f"from {first:.3g} to {last:.3g}; Theil-Sen slope of log k3 {slope:+.3g} per step"
    return estimate(GROWTH, "run", last / first, error, len(values), remark=remark)


def _theil_sen(steps: list[int], values: np.ndarray) -> float:
    """The median of the slopes of all pairs, of at most 500 steps taken evenly."""
    keep = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), 500)).astype(int))
    x, y = np.asarray(steps, dtype=float)[keep], values[keep]
    first, second = np.triu_indices(len(x), 1)
    return float(np.median((y[second] - y[first]) / (x[second] - x[first])))


def largest_jump(values: list[float]) -> tuple[int, float] | None:
    """The place and size of the largest ratio to the median of up to WINDOW values before; None if too few."""
    best: tuple[int, float] | None = None
    for place in range(MIN_BEFORE, len(values)):
        usual = median(values[max(0, place - WINDOW) : place])
        if usual > 0 and (best is None or values[place] / usual > best[1]):
            best = place, values[place] / usual
    return best


def _spike(judged: Series) -> Reading:
    jump = largest_jump([reading.value or 0.0 for _, reading in judged])
    if jump is None:
        return unjudged(SPIKE, "run", f"fewer than {MIN_BEFORE + 1} steps have a k3 above 0", len(judged))
    return exact(SPIKE, "run", jump[1], len(judged), (step_subject(judged[jump[0]][0]),))


def _entropy(run: RunSoFar) -> Reading:
    values = run.values("entropy_mean")
    where = "by token"
    if not values:
        logged = run.scalars.get("entropy", {})
        values, where = [logged[step] for step in sorted(logged) if math.isfinite(logged[step])], "from the scalars"
    if len(values) < 2 or tenths(values)[0] <= 0:
        return unjudged(ENTROPY, "run", "entropy is logged for fewer than two steps", len(values))
    first, last = tenths(values)
    return exact(ENTROPY, "run", last / first, len(values), remark=f"from {first:.3g} to {last:.3g} nat, {where}")
