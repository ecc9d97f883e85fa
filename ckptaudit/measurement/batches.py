"""Tensors to measurements: a large matrix by itself, small ones of equal shape in one batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from ckptaudit.measurement.jobs import Job, Route, Settled, applies
from ckptaudit.metrics import NARROW, REGISTRY, SHORT_SIDE, Kind, LargePair, Measurement, Metric, PairBatch
from ckptaudit.pairing import AlignedTensor

COPIES = 12
"""float64 arrays of the matrix's size that are alive at once while a batch is measured, factors included."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A named matrix of both sides, as stored."""

    name: str
    tensor: AlignedTensor
    base: Tensor
    tuned: Tensor


def is_large(tensor: AlignedTensor) -> bool:
    _, m, n = tensor.matrix_shape
    narrow = {str(dtype).removeprefix("torch.") for dtype in NARROW}
    return tensor.is_matrix and min(m, n) >= SHORT_SIDE and {tensor.base.dtype, tensor.tuned.dtype} <= narrow


def read(job: Job) -> tuple[Tensor, Tensor]:
    return job.tensor.base.read(), job.tensor.tuned.read()


def measure_large(job: Job, sides: tuple[Tensor, Tensor], route: Route) -> list[Measurement]:
    metrics = [REGISTRY[name] for name in sorted(job.metrics)]
    matrices = _matrices(job.tensor, *sides)
    return [m for matrix in matrices for m in _surviving(_measure_one, [matrix], metrics, route)]


def _measure_one(chunk: list[Matrix], metrics: list[Metric], route: Route) -> Iterator[Measurement]:
    (matrix,) = chunk
    pair = LargePair(
        matrix.base.to(route.device), matrix.tuned.to(route.device), route.recall, exact=not route.settled
    )
    if not pair.is_finite:
        yield from _measure_chunk(chunk, metrics, route)
        return
    if any(_needs_base(metric, route) for metric in metrics):
        pair.prepare()
    bounds = {metric.name: value for metric in metrics if (value := _settling(metric, pair, route)) is not None}
    for metric in metrics:
        if metric.name in bounds:
            yield _record(matrix, metric.name, bounds[metric.name], metric.bound_kind)
        else:
            (value,) = _values(metric.compute, pair, chunk, route)
            yield _record(matrix, metric.name, value, "exact")


def _needs_base(metric: Metric, route: Route) -> bool:
    by_update = metric.name in route.settled and metric.bound_needs == "matrix"
    return metric.needs == "spectrum" and not by_update


def _settling(metric: Metric, pair: LargePair, route: Route) -> float | None:
    """The metric's bound, if that is all that anybody needs to know."""
    if metric.bound is None or metric.name not in route.settled:
        return None
    bound = metric.bound(pair)
    value = None if bound is None else float(bound)
    return value if value is not None and metric.settles(value, route.settled[metric.name]) else None


def _surviving(
    work: Callable[[list[Matrix], list[Metric], Route], Iterator[Measurement]],
    chunk: list[Matrix],
    metrics: list[Metric],
    route: Route,
) -> list[Measurement]:
    """The work done; where the device's memory does not suffice, by halves, and a single matrix on the CPU."""
    try:
        return list(work(chunk, metrics, route))
    except torch.OutOfMemoryError:
        if len(chunk) == 1 and route.device.type == "cpu":
            raise
    # Outside the handler: the error holds on to the tensors that filled the memory.
    if route.device.type == "cuda":
        torch.cuda.empty_cache()
    if len(chunk) == 1:
        return _surviving(work, chunk, metrics, replace(route, device=torch.device("cpu")))
    half = len(chunk) // 2
    return [m for part in (chunk[:half], chunk[half:]) for m in _surviving(work, part, metrics, route)]


def measure_alike(group: Sequence[Job], route: Route) -> Iterator[Measurement]:
    _, m, n = group[0].tensor.matrix_shape
    size = max(1, route.batch_bytes // max(1, COPIES * 8 * m * n))
    metrics = [REGISTRY[name] for name in sorted(group[0].metrics) if applies(name, group[0].tensor)]
    matrices = (x for job in group for x in _matrices(job.tensor, *read(job)))
    while chunk := list(islice(matrices, size)):
        yield from _surviving(_measure_chunk, chunk, metrics, route)


def _matrices(tensor: AlignedTensor, base: Tensor, tuned: Tensor) -> Iterator[Matrix]:
    shape = tensor.matrix_shape
    base, tuned = base.reshape(shape), tuned.reshape(shape)
    for index, name in enumerate(tensor.matrix_names()):
        yield Matrix(name, tensor, base[index], tuned[index])


def _measure_chunk(chunk: list[Matrix], metrics: list[Metric], route: Route) -> Iterator[Measurement]:
    sound = [x for x in chunk if _is_finite(x.base) and _is_finite(x.tuned)]
    unsound = [x for x in chunk if not any(x is y for y in sound)]
    tolerant = [metric for metric in metrics if metric.tolerates_nonfinite]
    intolerant = [metric for metric in metrics if not metric.tolerates_nonfinite]
    if sound:
        yield from _evaluate(sound, metrics, route)
    if unsound:
        yield from _evaluate(unsound, tolerant, route)
        yield from (_record(x, metric.name, None, "exact") for metric in intolerant for x in unsound)


def _is_finite(matrix: Tensor) -> bool:
    return bool(matrix.isfinite().all())


def _evaluate(chunk: list[Matrix], metrics: list[Metric], route: Route) -> Iterator[Measurement]:
    batch = _batch(chunk, route)
    bounded = _bounded(batch, metrics, route.settled)
    for metric in metrics:
        kind: Kind = metric.bound_kind if metric.name in bounded else "exact"
        values = bounded.get(metric.name) or _values(metric.compute, batch, chunk, route)
        yield from (_record(x, metric.name, value, kind) for x, value in zip(chunk, values, strict=True))


def _batch(chunk: list[Matrix], route: Route) -> PairBatch:
    return PairBatch(
        torch.stack([x.base for x in chunk]).to(route.device),
        torch.stack([x.tuned for x in chunk]).to(route.device),
    )


def _bounded(batch: PairBatch, metrics: list[Metric], settled: Settled) -> dict[str, list[float]]:
    """Metrics whose bound decides; only where that saves the decomposition that others would need anyway."""
    bounds: dict[str, list[float]] = {}
    for metric in (metric for metric in metrics if metric.needs == "spectrum"):
        values = metric.bound(batch) if metric.bound and metric.name in settled else None
        if values is None or not all(metric.settles(v, settled[metric.name]) for v in values.tolist()):
            return {}
        bounds[metric.name] = values.tolist()
    return bounds


def _values(
    compute: Callable[[PairBatch], Tensor], batch: PairBatch, chunk: list[Matrix], route: Route
) -> list[float | None]:
    try:
        values: list[float | None] = compute(batch).tolist()
        return values
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        # One matrix on which LAPACK fails must not take its neighbours along.
        if len(chunk) == 1:
            return [None]
        return [value for x in chunk for value in _values(compute, _batch([x], route), [x], route)]


def _record(matrix: Matrix, metric: str, value: float | None, kind: Kind) -> Measurement:
    where = matrix.tensor.place
    count, m, n = matrix.tensor.matrix_shape
    return Measurement(
        tensor=matrix.name,
        layer=where.layer,
        role=where.role,
        shape=(m, n) if count > 1 else matrix.tensor.shape,
        metric=metric,
        value=value if value is not None and math.isfinite(value) else None,
        kind=kind,
    )
