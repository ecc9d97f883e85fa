"""How long a task will take, predicted from shapes: what shards of equal work are cut by.

A large matrix of m x n, r = min(m, n), k = min(512, max(1, r // 8)), costs in seconds of one core

    gate   START + mn ENTRY + 6 mnk / SINGLE + (G + T + B) / DOUBLE
    exact  START + mn ENTRY + 4 G / SINGLE + 2 (T + B) / DOUBLE_EXACT

with the products of docs/performance.md counted: G = max(m, n) r^2 for the Gram matrix of the short side,
T = 4/3 r^3 to bring it to tridiagonal form, B = 2 r^2 k for its leading vectors. The base is taken to be new: what
the cache saves is not known beforehand, and falls on all shards alike. The rates were fitted to single matrices of
sixteen shapes from 128 x 128 to 24576 x 1536 on one core of an AMD EPYC (`python -m benchmarks.costs`), within a
fifth of each. Only ratios matter for how work is shared out.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ckptaudit.measurement.batches import is_large
from ckptaudit.measurement.jobs import Job, Unit
from ckptaudit.measurement.tasks import Task
from ckptaudit.metrics import METRICS, MatrixMetric
from ckptaudit.pairing.runs import Run

Rates = tuple[float, float, float, float]

GATE: Rates = (0.0136, 2.2e-8, 8e10, 1.95e10)
EXACT: Rates = (0.0158, 2.5e-8, 7.9e10, 1.3e10)
"""Seconds a matrix and an entry; operations a second in float32 and in float64."""

SMALL = (0.0030, 1e-7, 3.2e9)
"""Seconds a small matrix and an entry, operations a second of its decomposition in float64."""

VECTOR = (1.1e-4, 2.5e-8)
"""Seconds a tensor of which no spectrum is asked, and an entry."""

PASS = 5e-9
"""Seconds an entry that is read and compared with others."""

MAX_SUBSPACE = 512


def cost_of_task(task: Task, *, exact: bool = False) -> float:
    """Predicted seconds of a task of matrices on one core."""
    # Asked for tens of thousands of tasks: the metrics of the task are looked up, not the table gone through.
    metrics = (METRICS.get(name) for name in task.jobs[0].metrics)
    decomposes = any(isinstance(metric, MatrixMetric) and metric.cost == "spectrum" for metric in metrics)
    return sum(cost_of_job(job, exact=exact, decomposes=decomposes) for job in task.jobs)


def cost_of_job(job: Job, *, exact: bool, decomposes: bool = True) -> float:
    """Predicted seconds of one tensor."""
    tensor = job.tensor
    count, m, n = tensor.matrix_shape
    if not tensor.is_matrix or not decomposes:
        return VECTOR[0] + VECTOR[1] * prod(tensor.shape)
    return count * (large_cost(m, n, exact=exact) if is_large(tensor) else small_cost(m, n))


def large_cost(m: int, n: int, *, exact: bool = False, cached: bool = False) -> float:
    """Predicted seconds of one large matrix; with `cached`, where all that rests on the base is there."""
    start, entry, single, double = EXACT if exact else GATE
    r = min(m, n)
    k = min(MAX_SUBSPACE, max(1, r // 8))
    gram, tridiagonal, back = float(max(m, n) * r**2), 4 / 3 * r**3, 2.0 * r**2 * k
    passes = start + entry * m * n
    if exact:
        return passes + 4 * gram / single + (1 if cached else 2) * (tridiagonal + back) / double
    if cached:
        return passes + 4.0 * m * n * k / single
    return passes + 6.0 * m * n * k / single + (gram + tridiagonal + back) / double


def small_cost(m: int, n: int) -> float:
    """Predicted seconds of one small matrix: singular values and vectors of both sides."""
    each, entry, rate = SMALL
    r, long = min(m, n), max(m, n)
    return each + entry * m * n + 2 * (3 * long * r**2 + 10 / 3 * r**3) / rate


def cost_of_unit(unit: Unit, runs: Sequence[Run]) -> float:
    """Predicted seconds of a unit that is more than matrices: a pass over its weights, or over all of the run's."""
    run = next((run for run in runs if run.path == unit.run), runs[0])
    tensors = run.pair.subjects.get(unit.subject, run.pair.aligned)
    return VECTOR[0] + PASS * sum(prod(tensor.shape) for tensor in tensors)
