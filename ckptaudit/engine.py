"""Aligned tensors to measurements: which matrices go into one batch, on which device, and by which route."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from ckptaudit.errors import MeasurementError, printable
from ckptaudit.metrics import REGISTRY, Kind, Measurement, Metric, PairBatch
from ckptaudit.pairing import AlignedTensor

BATCH_BYTES = 512 * 2**20
"""Default budget for the float64 copies and factors of one batch."""

COPIES = 12
"""float64 arrays of the matrix's size that are alive at once while a batch is measured, factors included."""

Settled = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Job:
    """One tensor and the metrics wanted of it."""

    tensor: AlignedTensor
    metrics: frozenset[str]


@dataclass(frozen=True, slots=True)
class Route:
    """How to measure: the device, the memory budget, and which upper bounds are good enough.

    `settled` maps a metric to the limit under which its upper bound decides every check that asks
    for it; empty when every number is to be computed.
    """

    device: torch.device
    batch_bytes: int = BATCH_BYTES
    settled: Settled = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Matrix:
    """A named matrix of both sides, as stored."""

    name: str
    tensor: AlignedTensor
    base: Tensor
    tuned: Tensor


def pick_device(name: str) -> torch.device:
    """The device of `auto`, `cpu`, `cuda` or `cuda:N`. Raises MeasurementError if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise _no_device(name, "auto, cpu, cuda and cuda:N are allowed") from None
    if device.type not in ("cpu", "cuda"):
        raise _no_device(name, "auto, cpu, cuda and cuda:N are allowed")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise _no_device(name, "no CUDA device is visible to torch here; use auto or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise _no_device(name, f"torch sees {torch.cuda.device_count()} CUDA device(s), counted from 0")
    return device


def applies(metric: str, tensor: AlignedTensor) -> bool:
    """Whether a metric means anything for this tensor: spectra are for matrices alone."""
    # What compares runs looks at their updates' directions.
    return tensor.is_matrix or (metric in REGISTRY and REGISTRY[metric].needs == "entries")


def measure(jobs: Iterable[Job], route: Route) -> list[Measurement]:
    """Every wanted metric of every job's matrices, equal shapes in one batch."""
    groups: dict[tuple[object, ...], list[Job]] = {}
    for job in jobs:
        tensor = job.tensor
        alike = (
            tensor.matrix_shape[1:],
            tensor.base.dtype,
            tensor.tuned.dtype,
            job.metrics,
            tensor.is_matrix,
        )
        groups.setdefault(alike, []).append(job)
    return [m for group in groups.values() for m in _measure_alike(group, route)]


def _no_device(name: str, mend: str) -> MeasurementError:
    return MeasurementError(f"--audit-device {printable(name)}: not a device of this machine; {mend}.")


def _measure_alike(group: Sequence[Job], route: Route) -> Iterator[Measurement]:
    _, m, n = group[0].tensor.matrix_shape
    size = max(1, route.batch_bytes // max(1, COPIES * 8 * m * n))
    metrics = [REGISTRY[name] for name in sorted(group[0].metrics) if applies(name, group[0].tensor)]
    matrices = (matrix for job in group for matrix in _matrices(job.tensor))
    while chunk := list(islice(matrices, size)):
        yield from _measure_chunk(chunk, metrics, route)


def _matrices(tensor: AlignedTensor) -> Iterator[Matrix]:
    shape = tensor.matrix_shape
    base, tuned = tensor.base.read().reshape(shape), tensor.tuned.read().reshape(shape)
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
        kind: Kind = "upper_bound" if metric.name in bounded else "exact"
        values = bounded.get(metric.name) or _values(metric.compute, batch, chunk, route)
        yield from (_record(x, metric.name, value, kind) for x, value in zip(chunk, values, strict=True))


def _batch(chunk: list[Matrix], route: Route) -> PairBatch:
    return PairBatch(
        torch.stack([x.base for x in chunk]).to(route.device),
        torch.stack([x.tuned for x in chunk]).to(route.device),
    )


def _bounded(batch: PairBatch, metrics: list[Metric], settled: Settled) -> dict[str, list[float]]:
    """Metrics whose bound decides; only where that saves the decomposition that others would need anyway."""
    spectral = [metric for metric in metrics if metric.needs == "spectrum"]
    bounds: dict[str, list[float]] = {}
    for metric in spectral:
        if metric.upper_bound is None or metric.name not in settled:
            return {}
        values = metric.upper_bound(batch)
        if not bool((values <= settled[metric.name]).all()):
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
