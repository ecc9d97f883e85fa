"""Tensors to measurements: a large matrix by itself, small ones of equal shape in one batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from ckptaudit.behavior.batching import out_of_memory
from ckptaudit.checkpoints.sources.read_ahead import read_ahead
from ckptaudit.measurement.jobs import Computing, Job, Stage, SufficientBounds, applies
from ckptaudit.measurement.reading import read
from ckptaudit.metrics import (
    METRICS,
    NARROW,
    SHORT_SIDE,
    Kind,
    LargePair,
    MatrixMetric,
    Measurement,
    Method,
    PairBatch,
    matrix_metrics,
)
from ckptaudit.pairing import AlignedTensor

COPIES = 12
"""float64 arrays of the matrix's size that are alive at once while a batch is measured, factors included."""

SIDE_BY_SIDE = 2
"""Batches that the memory budget is for: a CPU measures two at once."""

MOST_MATRICES = 512
"""In a batch. More gain nothing, and what is one batch cannot be spread."""

NARROW_NAMES = frozenset(str(dtype).removeprefix("torch.") for dtype in NARROW)

ZERO_BASE = "the base is all zero here, and nothing is small against it"

JOBS_AHEAD = 16
"""Small tensors of both sides that are asked for at once where they lie in a remote store."""


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """A named matrix of both sides, as stored, and the run whose it is."""

    name: str
    run: str
    tensor: AlignedTensor
    base: Tensor
    tuned: Tensor


@dataclass(frozen=True, slots=True)
class Number:
    """A metric's value for one matrix, how it was computed, and how far it may be off."""

    value: float | None
    method: Method = "direct"
    error: float | None = None
    standard_error: float | None = None


def is_large(tensor: AlignedTensor) -> bool:
    _, m, n = tensor.matrix_shape
    narrow = tensor.base.dtype in NARROW_NAMES and tensor.tuned.dtype in NARROW_NAMES
    return narrow and tensor.is_matrix and min(m, n) >= SHORT_SIDE


def measure_large(job: Job, sides: tuple[Tensor, Tensor], computing: Computing) -> list[Measurement]:
    known = matrix_metrics()
    metrics = [known[name] for name in sorted(job.metrics)]
    matrices = [matrix for matrix in _matrices(job, *sides) if not job.only or matrix.name in job.only]
    work = partial(_measure_one, stage=job.stage)
    return [m for matrix in matrices for m in _surviving(work, [matrix], metrics, computing)]


def _measure_one(
    chunk: list[StoredMatrix], metrics: list[MatrixMetric], computing: Computing, *, stage: Stage
) -> Iterator[Measurement]:
    (matrix,) = chunk
    pair = LargePair(
        matrix.base.to(computing.device),
        matrix.tuned.to(computing.device),
        computing.lookup_for(matrix.base),
        exact=not computing.sufficient,
    )
    if not pair.is_finite:
        yield from _measure_chunk(chunk, metrics, computing)
        return
    if any(_needs_base(metric, computing) for metric in metrics):
        pair.prepare()
    bounds = {m.name: value for m in metrics if (value := _bound(m, pair, computing, stage)) is not None}
    for metric in metrics:
        if metric.name in bounds:
            yield _record(matrix, metric.name, Number(bounds[metric.name]), metric.bound_kind)
        else:
            (found,) = _numbers(metric, pair, chunk, computing)
            yield _record(matrix, metric.name, found, "exact")


def _needs_base(metric: MatrixMetric, computing: Computing) -> bool:
    by_update = metric.name in computing.sufficient and metric.bound_cost == "matrix"
    return metric.cost == "spectrum" and not by_update


def _bound(metric: MatrixMetric, pair: LargePair, computing: Computing, stage: Stage) -> float | None:
    """The metric's bound, if that is all that anybody needs to know, or all that is asked for at this stage."""
    if stage == "numbers" or metric.bound is None or metric.name not in computing.sufficient:
        return None
    limit = computing.sufficient[metric.name]
    value = metric.bound_for(pair, limit)
    return value if value is None or stage == "bounds" or metric.settles(value, limit) else None


def _surviving(
    work: Callable[[list[StoredMatrix], list[MatrixMetric], Computing], Iterator[Measurement]],
    chunk: list[StoredMatrix],
    metrics: list[MatrixMetric],
    computing: Computing,
) -> list[Measurement]:
    """The work done; where the device's memory does not suffice, by halves, and a single matrix on the CPU."""
    try:
        return list(work(chunk, metrics, computing))
    except RuntimeError as error:
        if not out_of_memory(error) or (len(chunk) == 1 and computing.device.type == "cpu"):
            raise
    # Outside the handler: the error holds on to the tensors that filled the memory.
    if computing.device.type == "cuda":
        torch.cuda.empty_cache()
    if len(chunk) == 1:
        return _surviving(work, chunk, metrics, replace(computing, device=torch.device("cpu")))
    half = len(chunk) // 2
    return [m for part in (chunk[:half], chunk[half:]) for m in _surviving(work, part, metrics, computing)]


def matrices_at_once(m: int, n: int, batch_bytes: int) -> int:
    """How many small matrices of a shape make one batch."""
    room = batch_bytes // SIDE_BY_SIDE
    return min(MOST_MATRICES, max(1, room // max(1, COPIES * 8 * m * n)))


def measure_alike(group: Sequence[Job], computing: Computing) -> Iterator[Measurement]:
    _, m, n = group[0].tensor.matrix_shape
    size = matrices_at_once(m, n, computing.batch_bytes)
    known = matrix_metrics()
    metrics = [known[name] for name in sorted(group[0].metrics) if applies(name, group[0].tensor)]
    matrices = (x for job in _read_ahead(group) for x in _matrices(job, *read(job)))
    while chunk := list(islice(matrices, size)):
        yield from _surviving(_measure_chunk, chunk, metrics, computing)


def _read_ahead(group: Sequence[Job]) -> Iterator[Job]:
    """The jobs in order; what remote stores hold of the next few is asked for at once."""
    jobs = iter(group)
    while some := list(islice(jobs, JOBS_AHEAD)):
        read_ahead(side for job in some for side in (job.tensor.base, job.tensor.tuned))
        yield from some


def _matrices(job: Job, base: Tensor, tuned: Tensor) -> Iterator[StoredMatrix]:
    shape = job.tensor.matrix_shape
    base, tuned = base.reshape(shape), tuned.reshape(shape)
    for index, name in enumerate(job.tensor.matrix_names()):
        yield StoredMatrix(name, job.unit.run, job.tensor, base[index], tuned[index])


def failed(job: Job, reason: str) -> list[Measurement]:
    """The measurements of a tensor that could not be measured: without values, and why."""
    wanted = sorted(name for name in job.metrics if applies(name, job.tensor))
    return [
        Measurement(name, *_facts(job.tensor), metric, None, "exact", remark=reason, tuned=job.unit.run)
        for name in job.tensor.matrix_names()
        for metric in wanted
    ]


def _measure_chunk(
    chunk: list[StoredMatrix], metrics: list[MatrixMetric], computing: Computing
) -> Iterator[Measurement]:
    sound = [x for x in chunk if _is_finite(x.base) and _is_finite(x.tuned)]
    unsound = [x for x in chunk if not any(x is y for y in sound)]
    tolerant = [metric for metric in metrics if metric.tolerates_nonfinite]
    intolerant = [metric for metric in metrics if not metric.tolerates_nonfinite]
    if sound:
        yield from _evaluate(sound, metrics, computing)
    if unsound:
        yield from _evaluate(unsound, tolerant, computing)
        yield from (_record(x, metric.name, Number(None), "exact") for metric in intolerant for x in unsound)


def _is_finite(matrix: Tensor) -> bool:
    return bool(matrix.isfinite().all())


def _evaluate(
    chunk: list[StoredMatrix], metrics: list[MatrixMetric], computing: Computing
) -> Iterator[Measurement]:
    batch = _batch(chunk, computing)
    bounded = _bounded(batch, metrics, computing.sufficient)
    for metric in metrics:
        kind: Kind = metric.bound_kind if metric.name in bounded else "exact"
        found = bounded.get(metric.name) or _numbers(metric, batch, chunk, computing)
        yield from (_record(x, metric.name, number, kind) for x, number in zip(chunk, found, strict=True))


def _batch(chunk: list[StoredMatrix], computing: Computing) -> PairBatch:
    return PairBatch(
        torch.stack([x.base for x in chunk]).to(computing.device),
        torch.stack([x.tuned for x in chunk]).to(computing.device),
    )


def _bounded(
    batch: PairBatch, metrics: list[MatrixMetric], sufficient: SufficientBounds
) -> dict[str, list[Number]]:
    """Metrics whose bound decides; only where that saves the decomposition that others would need anyway."""
    bounds: dict[str, list[Number]] = {}
    for metric in (metric for metric in metrics if metric.cost == "spectrum"):
        values = metric.bound(batch) if metric.bound and metric.name in sufficient else None
        if values is None or not all(metric.settles(v, sufficient[metric.name]) for v in values.tolist()):
            return {}
        bounds[metric.name] = [Number(value) for value in values.tolist()]
    return bounds


def _numbers(
    metric: MatrixMetric, batch: PairBatch, chunk: list[StoredMatrix], computing: Computing
) -> list[Number]:
    try:
        found = batch.evaluate(metric.compute, is_difference=metric.scale == "difference")
        scatter = None if metric.standard_error is None else metric.standard_error(batch).tolist()
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        # One matrix on which LAPACK fails must not take its neighbours along.
        if len(chunk) == 1:
            return [Number(None)]
        return [number for x in chunk for number in _numbers(metric, _batch([x], computing), [x], computing)]
    none = [None] * len(chunk)
    errors = none if found.error is None else found.error.tolist()
    parts = zip(found.values.tolist(), errors, scatter or none, strict=True)
    return [_number(value, found.method, error, deviation) for value, error, deviation in parts]


def _number(value: float, method: Method, error: float | None, standard_error: float | None) -> Number:
    """One of a batch: a method leaves no error in those of its matrices that it was not used for."""
    if error == 0:
        return Number(value, standard_error=standard_error)
    return Number(value, method, error, standard_error)


def _record(matrix: StoredMatrix, metric: str, number: Number, kind: Kind) -> Measurement:
    facts = _facts(matrix.tensor)
    if number.value is None or not math.isfinite(number.value):
        return Measurement(matrix.name, *facts, metric, None, kind, tuned=matrix.run)
    return Measurement(
        matrix.name,
        *facts,
        metric,
        number.value,
        kind,
        tuned=matrix.run,
        method=number.method,
        error=number.error,
        standard_error=number.standard_error,
        remark=ZERO_BASE if _is_of_a_zero_base(matrix, metric, number.value) else "",
    )


def _is_of_a_zero_base(matrix: StoredMatrix, metric: str, value: float) -> bool:
    """Whether a size is 1 by definition (x / 0), and says nothing of how far the weight went."""
    return value == 1 and METRICS[metric].scale == "size" and not bool(matrix.base.any())


def _facts(tensor: AlignedTensor) -> tuple[int | None, str, tuple[int, ...]]:
    """Layer, role and shape of each of a tensor's matrices."""
    count, m, n = tensor.matrix_shape
    return tensor.place.layer, tensor.place.role, (m, n) if count > 1 else tensor.shape
