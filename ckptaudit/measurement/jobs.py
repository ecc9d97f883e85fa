"""What is to be measured, and how: units of work, jobs, device, memory, and the bounds that suffice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec
import torch
from torch import Tensor

from ckptaudit.errors import MeasurementError, parameter, printable
from ckptaudit.measurement.base_cache import FactorCache
from ckptaudit.measurement.cache_entries import entry_key
from ckptaudit.metrics import METRICS, MatrixMetric, Scope, Tensors
from ckptaudit.metrics.base_facts import CachedLookup
from ckptaudit.options import DEFAULT_MEMORY
from ckptaudit.pairing import AlignedTensor
from ckptaudit.pairing.model_pair import Condition
from ckptaudit.sizes import parse_size

BATCH_BYTES = parse_size(DEFAULT_MEMORY)
"""Default budget for the float64 copies and factors of one batch of small matrices."""

SufficientBounds = Mapping[str, float]

Stage = Literal["both", "bounds", "numbers"]
"""What is made of a metric that has a bound: the bound where it suffices and else the number, the bound wherever
there is one, or the number."""


class Unit(msgspec.Struct, frozen=True):
    """What is measured in one go, and the key under which it is kept.

    Of scope "matrix" a unit is every metric wanted of a subject of a run; of the other scopes it is one `metric`
    of a subject, of the weights of these `roles`. What compares runs belongs to none of them: there `run` names
    the group, and `metric` says whether its runs are steps or siblings.
    """

    run: str
    subject: str
    scope: Scope = "matrix"
    metric: str = ""
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """One tensor and the metrics wanted of it, for a unit of work; of large ones only some matrices, if named."""

    tensor: AlignedTensor
    metrics: frozenset[str]
    unit: Unit
    stage: Stage = "both"
    only: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Computing:
    """How to measure: the device, the memory budget, which bounds suffice, and where factors are kept.

    `sufficient` maps a metric to the limit within which its bound decides every check that asks for it, infinite
    where none does; a metric that is not there is always computed. Empty when every number is to be computed.
    """

    device: torch.device
    batch_bytes: int = BATCH_BYTES
    sufficient: SufficientBounds = field(default_factory=dict)
    cache: FactorCache | None = None

    def lookup_for(self, stored: Tensor) -> CachedLookup:
        """How to find what rests on a base matrix alone: from the cache, or made now and kept there.

        `stored` is the matrix where it was read, so that none comes back from a device for its digest.
        """

        def lookup(definition: str, make: Callable[[], Tensors]) -> Tensors:
            if self.cache is None:
                return make()
            key = entry_key(stored, definition=definition)
            found: Tensors | None = self.cache.read(key)
            if found is None:
                found = make()
                self.cache.write(key, found)
            return found

        return lookup


def pick_device(name: str) -> torch.device:
    """The device of `auto`, `cpu`, `cuda` or `cuda:N`. Raises MeasurementError if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise _no_device(name, "auto, cpu, cuda and cuda:N are allowed") from None
    if device.type == "mps":
        raise _no_device(name, "it has no float64, which numbers are computed in; use cpu")
    if device.type not in ("cpu", "cuda"):
        raise _no_device(name, "auto, cpu, cuda and cuda:N are allowed")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise _no_device(name, "no CUDA device is visible to torch here; use auto or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise _no_device(name, f"torch sees {torch.cuda.device_count()} CUDA device(s), counted from 0")
    return device


def batch_budget(text: str) -> int:
    """The bytes of the memory budget. Raises MeasurementError saying how a size is written."""
    try:
        size = parse_size(text)
    except ValueError as error:
        raise MeasurementError(f"{parameter('memory')} {printable(text)}: not a size; {error}.") from None
    if size < 1:
        raise MeasurementError(f"{parameter('memory')} {printable(text)}: at least 1 byte is required.")
    return size


def applies(metric: str, tensor: AlignedTensor) -> bool:
    """Whether a metric of matrices or of runs means anything for this tensor: spectra are for matrices alone."""
    return tensor.is_matrix or condition_of(metric) is None


def condition_of(metric: str) -> Condition | None:
    """For which tensors a metric of matrices or of runs means anything; None for all."""
    known = METRICS.get(metric)
    # What compares runs looks at their updates' directions.
    return None if isinstance(known, MatrixMetric) and known.cost == "entries" else _is_matrix


def _is_matrix(tensor: AlignedTensor) -> bool:
    return tensor.is_matrix


def _no_device(name: str, mend: str) -> MeasurementError:
    return MeasurementError(f"{parameter('device')} {printable(name)}: not a device to measure on here; {mend}.")
