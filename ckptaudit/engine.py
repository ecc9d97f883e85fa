"""Aligned tensors to measurements: which matrices go into one batch, on which device, and by which route."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from math import prod

import torch
from torch import Tensor

from ckptaudit.cache import FactorCache, entry_key
from ckptaudit.errors import MeasurementError, printable
from ckptaudit.linalg.threads import blas_threads
from ckptaudit.metrics import (
    NARROW,
    REGISTRY,
    SHORT_SIDE,
    Kind,
    LargePair,
    Measurement,
    Metric,
    PairBatch,
    Tensors,
)
from ckptaudit.pairing import AlignedTensor
from ckptaudit.policy import DEFAULT_MEMORY
from ckptaudit.sizes import parse_size

BATCH_BYTES = parse_size(DEFAULT_MEMORY)
"""Default budget for the float64 copies and factors of one batch of small matrices."""

LANES = 2
"""Large matrices that a CPU measures at once; each takes a few times its own size of memory."""

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
    """How to measure: the device, the memory budget, which bounds are good enough, and where factors are kept.

    `settled` maps a metric to the limit within which its bound decides every check that asks for it, infinite
    where none does; a metric that is not there is always computed. Empty when every number is to be computed.
    """

    device: torch.device
    batch_bytes: int = BATCH_BYTES
    settled: Settled = field(default_factory=dict)
    cache: FactorCache | None = None

    def recall(self, stored: Tensor, definition: str, make: Callable[[], Tensors]) -> Tensors:
        """What rests on a base matrix alone: from the cache, or made now and kept there."""
        if self.cache is None:
            return make()
        key = entry_key(stored, definition=definition)
        found: Tensors | None = self.cache.read(key)
        if found is None:
            found = make()
            self.cache.write(key, found)
        return found


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


def batch_budget(text: str) -> int:
    """The bytes of `--audit-memory`. Raises MeasurementError saying how a size is written."""
    try:
        size = parse_size(text)
    except ValueError as error:
        raise MeasurementError(f"--audit-memory {printable(text)}: not a size; {error}.") from None
    if size < 1:
        raise MeasurementError(f"--audit-memory {printable(text)}: nothing fits in there; give some memory.")
    return size


def applies(metric: str, tensor: AlignedTensor) -> bool:
    """Whether a metric means anything for this tensor: spectra are for matrices alone."""
    # What compares runs looks at their updates' directions.
    return tensor.is_matrix or (metric in REGISTRY and REGISTRY[metric].needs == "entries")


def measure(jobs: Iterable[Job], route: Route) -> list[Measurement]:
    """Every wanted metric of every job's matrices: large ones one by one, small ones of equal shape together."""
    large: list[Job] = []
    groups: dict[tuple[object, ...], list[Job]] = {}
    for job in jobs:
        tensor = job.tensor
        if _is_large(tensor):
            large.append(job)
            continue
        alike = (
            tensor.matrix_shape[1:],
            tensor.base.dtype,
            tensor.tuned.dtype,
            job.metrics,
            tensor.is_matrix,
        )
        groups.setdefault(alike, []).append(job)
    small = (m for group in groups.values() for m in _measure_alike(group, route))
    return [*small, *_measure_large(large, route)]


def _no_device(name: str, mend: str) -> MeasurementError:
    return MeasurementError(f"--audit-device {printable(name)}: not a device of this machine; {mend}.")


def _is_large(tensor: AlignedTensor) -> bool:
    _, m, n = tensor.matrix_shape
    narrow = {str(dtype).removeprefix("torch.") for dtype in NARROW}
    return tensor.is_matrix and min(m, n) >= SHORT_SIDE and {tensor.base.dtype, tensor.tuned.dtype} <= narrow


def _measure_large(jobs: Sequence[Job], route: Route) -> list[Measurement]:
    """Matrix by matrix. On a CPU two at once, the largest first, each with half of the threads.

    Decompositions use several threads badly: two that take one each finish sooner. And while one matrix is
    being read, another is measured.
    """
    lanes = min(LANES, len(jobs), torch.get_num_threads()) if route.device.type == "cpu" else 1
    if lanes < 2:
        return [m for job, sides in _read_ahead(jobs) for m in _measure_job(job, sides, route)]
    threads = torch.get_num_threads()
    ordered = sorted(jobs, key=lambda job: -prod(job.tensor.shape))
    try:
        with (
            blas_threads(threads // lanes),
            ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(threads // lanes,)) as pool,
        ):
            return [m for rows in pool.map(lambda job: _measure_job(job, _read(job), route), ordered) for m in rows]
    finally:
        torch.set_num_threads(threads)


def _read(job: Job) -> tuple[Tensor, Tensor]:
    return job.tensor.base.read(), job.tensor.tuned.read()


def _read_ahead(jobs: Sequence[Job]) -> Iterator[tuple[Job, tuple[Tensor, Tensor]]]:
    """Both sides of each job, the next being read while one is measured."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        pending = [reader.submit(_read, job) for job in jobs[:1]]
        for index, job in enumerate(jobs):
            sides = pending.pop().result()
            pending += [reader.submit(_read, following) for following in jobs[index + 1 : index + 2]]
            yield job, sides


def _measure_job(job: Job, sides: tuple[Tensor, Tensor], route: Route) -> list[Measurement]:
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


def _measure_alike(group: Sequence[Job], route: Route) -> Iterator[Measurement]:
    _, m, n = group[0].tensor.matrix_shape
    size = max(1, route.batch_bytes // max(1, COPIES * 8 * m * n))
    metrics = [REGISTRY[name] for name in sorted(group[0].metrics) if applies(name, group[0].tensor)]
    matrices = (x for job in group for x in _matrices(job.tensor, job.tensor.base.read(), job.tensor.tuned.read()))
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
