"""Both sides of a tensor as stored, read once where they share what they rest on."""

from __future__ import annotations

from torch import Tensor

from ckptaudit.checkpoints import TensorHandle
from ckptaudit.checkpoints.deltas.entries import PatchedTensor, reads_the_same
from ckptaudit.checkpoints.sources.read_ahead import read_ahead
from ckptaudit.errors import MeasurementError, printable
from ckptaudit.measurement.jobs import Job


def read(job: Job) -> tuple[Tensor, Tensor]:
    """Both sides as stored. Raises MeasurementError where they are no numbers of one kind."""
    base, tuned = job.tensor.base, job.tensor.tuned
    kinds = {_number_kind(side.dtype) for side in (base, tuned)}
    if len(kinds) > 1 or kinds == {"complex"}:
        raise MeasurementError(
            f"{printable(job.tensor.name)} is stored as {base.dtype} in the base and as {tuned.dtype} in the tuned "
            "checkpoint, which are no numbers to be compared"
        )
    return _both(base, tuned)


def read_large(job: Job) -> tuple[Tensor, Tensor]:
    """The same of one tensor by itself; where both sides lie in remote stores, they are asked for together."""
    read_ahead((job.tensor.base, job.tensor.tuned))
    return read(job)


def _both(base: TensorHandle, tuned: TensorHandle) -> tuple[Tensor, Tensor]:
    """Both sides; what a sparse delta left of the base, or of a weight, is read once."""
    if reads_the_same(tuned, base):
        one = base.read()
        return one, one
    patched = getattr(tuned.load, "__self__", None)
    if isinstance(patched, PatchedTensor) and reads_the_same(patched.weight, base):
        one = base.read()
        return one, patched.over(one)
    return base.read(), tuned.read()


def _number_kind(dtype: str) -> str:
    """`float`, `complex`, `int` or `bool`, of whatever width and sign."""
    return next((kind for kind in ("float", "complex", "int") if kind in dtype), dtype)
