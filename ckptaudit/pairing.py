"""Base and tuned, name by name: which tensors correspond, where they sit, and as which matrices they count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Literal

from ckptaudit.checkpoints import Checkpoint, TensorHandle
from ckptaudit.errors import PairingError, printable
from ckptaudit.naming import Place, in_groups, place, rules

Fault = Literal["only in base", "only in tuned", "shapes differ"]

FLOATING = ("bfloat16", "float16", "float32", "float64")


@dataclass(frozen=True, slots=True)
class Unaligned:
    """A tensor that could not be paired, and why. Never dropped silently."""

    tensor: str
    fault: Fault
    detail: str = ""

    def __str__(self) -> str:
        return f"{printable(self.tensor)}: {self.fault}{self.detail}"


@dataclass(frozen=True, slots=True)
class AlignedTensor:
    """One weight on both sides, of one shape."""

    name: str
    base: TensorHandle
    tuned: TensorHandle

    @property
    def place(self) -> Place:
        """Layer, role and stack."""
        return place(self.name)

    @property
    def shape(self) -> tuple[int, ...]:
        """The stored shape."""
        return self.base.shape

    @property
    def is_matrix(self) -> bool:
        """Whether spectra and subspaces mean anything here: floating point, two or more axes, not empty."""
        floating = self.base.dtype in FLOATING and self.tuned.dtype in FLOATING
        return floating and len(self.shape) >= 2 and prod(self.shape) > 0

    @property
    def dtypes_agree(self) -> bool:
        """Whether both sides are stored alike."""
        return self.base.dtype == self.tuned.dtype

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """(count, m, n): how many matrices the tensor holds, and their shape.

        A two-dimensional weight is one matrix. Three axes under an `experts` name are a stack of
        matrices; any other tensor (a convolution) is flattened to (out, everything else). A vector
        counts as one row.
        """
        shape = self.shape
        if len(shape) == 3 and "experts" in self.name:
            return shape[0], shape[1], shape[2]
        if len(shape) < 2:
            return 1, 1, prod(shape)
        return 1, shape[0], prod(shape[1:])

    def matrix_names(self) -> tuple[str, ...]:
        """One name for each matrix: the tensor's own, or `name[i]` for the i-th expert."""
        count = self.matrix_shape[0]
        return (self.name,) if count == 1 else tuple(f"{self.name}[{i}]" for i in range(count))


@dataclass(frozen=True)
class ModelPair:
    """A base and a tuned checkpoint with their tensors aligned."""

    base: Checkpoint
    tuned: Checkpoint
    aligned: tuple[AlignedTensor, ...]
    unaligned: tuple[Unaligned, ...]

    @cached_property
    def subjects(self) -> dict[str, tuple[AlignedTensor, ...]]:
        """Aligned tensors by subject: layers in order, then what stands outside them."""
        grouped: dict[str, list[AlignedTensor]] = {}
        for tensor in sorted(self.aligned, key=_subject_order):
            grouped.setdefault(tensor.place.subject, []).append(tensor)
        return {subject: tuple(tensors) for subject, tensors in grouped.items()}

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the numbered layers, in order."""
        return tuple(s for s, tensors in self.subjects.items() if tensors[0].place.layer is not None)

    def select(self, roles: Sequence[str]) -> dict[str, tuple[AlignedTensor, ...]]:
        """By subject, the tensors whose role is in any of the groups or matches any of the globs."""
        wanted = tuple(roles)
        chosen = {
            subject: tuple(t for t in ts if in_groups(t.place.role, wanted, is_matrix=t.is_matrix))
            for subject, ts in self.subjects.items()
        }
        return {subject: tensors for subject, tensors in chosen.items() if tensors}


def pair_checkpoints(base: Checkpoint, tuned: Checkpoint) -> ModelPair:
    """Align two checkpoints by tensor name. Raises PairingError if nothing corresponds."""
    left, right = _untied(base, tuned), _untied(tuned, base)
    aligned: list[AlignedTensor] = []
    unaligned: list[Unaligned] = []
    for name in sorted({*left, *right}):
        if name not in right:
            unaligned.append(Unaligned(name, "only in base"))
        elif name not in left:
            unaligned.append(Unaligned(name, "only in tuned"))
        elif left[name].shape != right[name].shape:
            detail = f", base {list(left[name].shape)}, tuned {list(right[name].shape)}"
            unaligned.append(Unaligned(name, "shapes differ", detail))
        else:
            aligned.append(AlignedTensor(name, left[name], right[name]))
    if not aligned and not any(u.fault == "shapes differ" for u in unaligned):
        raise PairingError(
            f"{printable(base.path)} and {printable(tuned.path)} have no tensor name in common "
            f"(base has {_example(base)}, tuned has {_example(tuned)}); pass the base that this run started from."
        )
    return ModelPair(base, tuned, tuple(aligned), tuple(unaligned))


def _untied(side: Checkpoint, other: Checkpoint) -> dict[str, TensorHandle]:
    """The side's tensors, with a head it left out because it shares the embedding put back."""
    tensors = dict(side.tensors)
    if not side.ties_embeddings:
        return tensors
    for tie in rules().tied:
        sources = [n for n in tensors if place(n).role == tie.source]
        for name in other.tensors:
            if name not in tensors and place(name).role == tie.role and len(sources) == 1:
                tensors[name] = tensors[sources[0]]
    return tensors


def _subject_order(tensor: AlignedTensor) -> tuple[bool, str, int, str, str]:
    where = tensor.place
    return (where.layer is None, where.stack, where.layer or 0, where.subject, tensor.name)


def _example(checkpoint: Checkpoint) -> str:
    return printable(next(iter(checkpoint.tensors)))[:80]
