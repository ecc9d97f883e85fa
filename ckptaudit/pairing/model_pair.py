"""What pairing two checkpoints results in: aligned weights by layer and role, and what did not align."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from math import prod
from typing import Literal

from ckptaudit.checkpoints import Checkpoint, TensorHandle
from ckptaudit.findings import Finding
from ckptaudit.naming import Place, in_groups, primary_group

Fault = Literal["only in base", "only in tuned", "shapes differ", "rows beyond the common vocabulary"]

FLOATING = ("bfloat16", "float16", "float32", "float64")


@dataclass(frozen=True)
class AlignedTensor:
    """One weight on both sides, of one shape: a stored tensor, or the share of a fused one.

    Matrices are `[out, in]` however they are stored. `stacked`: the first axis counts experts.
    """

    name: str
    base: TensorHandle
    tuned: TensorHandle
    place: Place
    stacked: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's shape on either side."""
        return self.base.shape

    @cached_property
    def is_matrix(self) -> bool:
        """Whether spectra and subspaces mean anything here: floating point, two or more axes, not empty."""
        floating = self.base.dtype in FLOATING and self.tuned.dtype in FLOATING
        return floating and len(self.shape) - self.stacked >= 2 and prod(self.shape) > 0

    @property
    def group(self) -> str:
        """The one primary group that the weight counts in: `attention`, `vocabulary`, ... or `other`."""
        floating = "float" in self.base.dtype
        return primary_group(self.place.role, is_matrix=self.is_matrix, floating=floating)

    @property
    def dtypes_agree(self) -> bool:
        """Whether both sides are stored alike."""
        return self.base.dtype == self.tuned.dtype

    @property
    def is_quantised_apart(self) -> bool:
        """Whether one side went through an eight-bit type and the other did not go through the same."""
        return self.base.quantised != self.tuned.quantised

    @cached_property
    def matrix_shape(self) -> tuple[int, int, int]:
        """(count, m, n): how many matrices the weight holds, and their shape.

        A stack of experts holds one for each. A convolution is flattened to (out, everything else),
        a vector counts as one row.
        """
        count, *axes = self.shape if self.stacked else (1, *self.shape)
        if len(axes) < 2:
            return count, 1, prod(axes)
        return count, axes[0], prod(axes[1:])

    def matrix_names(self) -> tuple[str, ...]:
        """One name for each matrix: the weight's own, or `name[i]` for the i-th expert."""
        count = self.matrix_shape[0]
        return (self.name,) if count == 1 else tuple(f"{self.name}[{i}]" for i in range(count))


Selected = Mapping[str, tuple[AlignedTensor, ...]]
Condition = Callable[[AlignedTensor], bool]

Kind = tuple[str, bool, bool]
"""Role, whether it is a matrix, whether it is of an expert: all that groups and globs look at."""


@dataclass(frozen=True)
class ModelPair:
    """A base and a tuned checkpoint with their tensors aligned.

    `unaligned` are the tensors that could not be paired, each with a `Fault`; none is dropped silently. `notes` say
    in words what a reader of the numbers should know: other prefixes, fused tensors that are not split.
    """

    base: Checkpoint
    tuned: Checkpoint
    aligned: tuple[AlignedTensor, ...]
    unaligned: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

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

    def select(self, roles: Sequence[str], where: Condition | None = None) -> Selected:
        """By subject, the tensors whose role is in any of the groups or matches any of the globs.

        With `where`, those of them of which it says so; it is asked once for each.
        """
        wanted = tuple(roles), where
        if wanted not in self._selected:
            chosen = _those(self.select(roles), where) if where is not None else self._of_kinds(wanted[0])
            self._selected[wanted] = chosen
        return self._selected[wanted]

    def select_all(self, roles: Sequence[str], where: Condition | None = None) -> tuple[AlignedTensor, ...]:
        """The same of all subjects together."""
        wanted = tuple(roles), where
        if wanted not in self._together:
            self._together[wanted] = tuple(chain.from_iterable(self.select(roles, where).values()))
        return self._together[wanted]

    def _of_kinds(self, groups: tuple[str, ...]) -> Selected:
        # Tens of thousands of experts are of a few kinds, and what is selected of a kind is all of it.
        numbers = {number for kind, number in self._kinds.items() if _is_wanted(kind, groups)}
        found = {s: tuple(t for n, t in numbered if n in numbers) for s, numbered in self._numbered.items()}
        return {subject: tensors for subject, tensors in found.items() if tensors}

    @cached_property
    def _kinds(self) -> dict[Kind, int]:
        """The kinds there are, each with its number."""
        kinds: dict[Kind, int] = {}
        for tensor in self.aligned:
            kinds.setdefault(_kind(tensor), len(kinds))
        return kinds

    @cached_property
    def _numbered(self) -> dict[str, list[tuple[int, AlignedTensor]]]:
        """By subject, its tensors, each with the number of its kind."""
        kinds = self._kinds
        return {s: [(kinds[_kind(tensor)], tensor) for tensor in tensors] for s, tensors in self.subjects.items()}

    @cached_property
    def _selected(self) -> dict[tuple[tuple[str, ...], Condition | None], Selected]:
        # Every check asks once for each of its subjects, and a large model has hundreds.
        return {}

    @cached_property
    def _together(self) -> dict[tuple[tuple[str, ...], Condition | None], tuple[AlignedTensor, ...]]:
        return {}

    @cached_property
    def owners(self) -> dict[str, str]:
        """The subject of each matrix, by name."""
        return {name: s for s, tensors in self.subjects.items() for t in tensors for name in t.matrix_names()}

    @cached_property
    def holders(self) -> dict[str, AlignedTensor]:
        """The weight that holds each matrix, by the name of the matrix."""
        return {name: tensor for tensor in self.aligned for name in tensor.matrix_names()}

    @cached_property
    def has_quantised_apart(self) -> bool:
        """Whether of any weight one side went through an eight-bit type and the other did not."""
        return any(tensor.is_quantised_apart for tensor in self.aligned)


def _kind(tensor: AlignedTensor) -> Kind:
    where = tensor.place
    return where.role, tensor.is_matrix, where.in_experts


def _is_wanted(kind: Kind, groups: tuple[str, ...]) -> bool:
    role, is_matrix, in_experts = kind
    return in_groups(role, groups, is_matrix=is_matrix, in_experts=in_experts)


def _those(subjects: Selected, where: Condition) -> Selected:
    chosen = {subject: tuple(filter(where, tensors)) for subject, tensors in subjects.items()}
    return {subject: tensors for subject, tensors in chosen.items() if tensors}


def _subject_order(tensor: AlignedTensor) -> tuple[bool, str, int, str, str]:
    where = tensor.place
    return (where.layer is None, where.stack, where.layer or 0, where.subject, tensor.name)
