"""Quantities of several weights taken together: a matrix, a layer's weights, or the whole model's, as one vector.

A span over a layer is the span of the layer's concatenated gradients, which no average over its matrices gives.
Every quantity is a fold over pieces, so that memory is set by one tensor and not by the group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ckptaudit.errors import MeasurementError, printable
from ckptaudit.metrics.measurement import Measurement
from ckptaudit.pairing import AlignedTensor, ModelPair
from ckptaudit.pairing.auxiliary import INPUTS, Input, Inputs
from ckptaudit.pairing.model_pair import FLOATING

Scope = Literal["matrix", "layer", "model"]
SCOPES: tuple[Scope, ...] = ("matrix", "layer", "model")

PIECE_BYTES = 256 * 2**20
"""float64 bytes of one piece, samples included."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A group's value; `worst` names the weight that contributes most, `remark` what belongs beside the number.

    `value` is None where there is none, and `remark` then says why.
    """

    value: float | None
    worst: str | None = None
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of entries of one weight in float64: `samples` and `weights` hold the same entries of each input."""

    tensor: str
    base: Float[Tensor, "n"]
    tuned: Float[Tensor, "n"]
    samples: Mapping[str, Float[Tensor, "s n"]]
    weights: Mapping[str, Float[Tensor, "n"]]

    @property
    def update(self) -> Float[Tensor, "n"]:
        """D = W1 - W0."""
        return self.tuned - self.base


@dataclass(frozen=True, slots=True)
class Member:
    """One weight of a group; `index` picks a matrix out of a stack of experts."""

    tensor: AlignedTensor
    index: int | None = None

    @property
    def name(self) -> str:
        """The matrix's name where it is one of several, else the weight's."""
        return self.tensor.name if self.index is None else self.tensor.matrix_names()[self.index]

    def of(self, stored: Tensor) -> Tensor:
        """`[..., count, m, n]` as `[..., entries]`, the chosen matrix alone if one was chosen."""
        chosen = stored if self.index is None else stored[..., self.index, :, :]
        return chosen.flatten(-3 if self.index is None else -2)


@dataclass(frozen=True)
class Group:
    """Weights of a pair that are measured as one, with the inputs that every one of them has."""

    pair: ModelPair
    members: tuple[Member, ...]
    inputs: Mapping[str, Input] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def entries(self) -> int:
        """How many numbers the concatenated vector has."""
        return sum(math.prod(m.tensor.matrix_shape[m.index is not None :]) for m in self.members)

    def pieces(self) -> Iterator[Piece]:
        """All entries of all members once, in pieces; each call reads the files again.

        Raises CheckpointError if a file is damaged, MeasurementError if an entry of either side or of an input is
        not finite.
        """
        for member in self.members:
            yield from self._pieces_of(member)

    def _pieces_of(self, member: Member) -> Iterator[Piece]:
        shape = member.tensor.matrix_shape
        base = member.of(member.tensor.base.read().reshape(shape))
        tuned = member.of(member.tensor.tuned.read().reshape(shape))
        for side, flat in (("base", base), ("tuned", tuned)):
            if not bool(flat.isfinite().all()):
                raise MeasurementError(f"{printable(member.name)} has NaN or infinite entries on the {side} side")
        stacks = {name: member.of(one.read(member.tensor)) for name, one in self.inputs.items() if one.weights}
        rows = 2 + sum(len(stack) for stack in stacks.values())
        size = max(1, PIECE_BYTES // (8 * rows))
        for start in range(0, base.numel(), size):
            cut = slice(start, start + size)
            given = {name: self._wide(stack[:, cut]) for name, stack in stacks.items()}
            yield Piece(
                member.name,
                self._wide(base[cut]),
                self._wide(tuned[cut]),
                {name: rows for name, rows in given.items() if INPUTS[name].layout == "samples"},
                {name: rows[0] for name, rows in given.items() if INPUTS[name].layout == "weights"},
            )

    def _wide(self, stored: Tensor) -> Tensor:
        return stored.to(self.device).double()


@dataclass(frozen=True, slots=True)
class GroupMetric:
    """A named quantity of a group: `inputs` it needs beside the pair, `per` where it means anything."""

    name: str
    unit: str
    formula: str
    source: str
    inputs: tuple[str, ...]
    compute: Callable[[Group], Reading]
    per: tuple[Scope, ...] = SCOPES


GROUP_METRICS: dict[str, GroupMetric] = {}


def group_metric(
    *, unit: str, formula: str, source: str, inputs: tuple[str, ...], per: tuple[Scope, ...] = SCOPES
) -> Callable[[Callable[[Group], Reading]], Callable[[Group], Reading]]:
    """Register the decorated function under its own name."""

    def register(function: Callable[[Group], Reading]) -> Callable[[Group], Reading]:
        GROUP_METRICS[function.__name__] = GroupMetric(
            function.__name__, unit, formula, source, inputs, function, per
        )
        return function

    return register


def counts(tensor: AlignedTensor) -> bool:
    """Whether a weight can be part of a group: floating point on both sides, and not empty."""
    return tensor.base.dtype in FLOATING and tensor.tuned.dtype in FLOATING and tensor.base.parameters > 0


def measure_group(
    metric: GroupMetric,
    subject: str,
    roles: Sequence[str],
    pair: ModelPair,
    tensors: Sequence[AlignedTensor],
    inputs: Inputs,
    device: torch.device,
) -> Measurement:
    """A metric of the weights that all its inputs cover, taken together, under the subject's name."""
    needed = {name: inputs[name] for name in metric.inputs}
    covered = [t for t in tensors if all(one.covers(t) for one in needed.values())]
    chosen = tuple(_members(subject, covered))
    group = Group(pair, chosen, needed, device)
    try:
        reading = metric.compute(group) if chosen else Reading(None, remark="no weight here has all inputs")
    except MeasurementError as error:
        reading = Reading(None, remark=str(error).rstrip("."))
    missing = len(tensors) - len(covered)
    blind = f"{missing} of {len(tensors)} weights left out: an input lacks them" if missing else ""
    single = chosen[0].tensor if len(chosen) == 1 else None
    return Measurement(
        tensor=subject,
        layer=_layer(tensors),
        role=single.place.role if single is not None else ", ".join(roles),
        shape=single.matrix_shape[1:] if single is not None and single.is_matrix else (group.entries,),
        metric=metric.name,
        value=reading.value if reading.value is not None and math.isfinite(reading.value) else None,
        worst=reading.worst or "",
        remark="; ".join(filter(None, (reading.remark, blind))),
    )


def _members(subject: str, tensors: Sequence[AlignedTensor]) -> Iterator[Member]:
    for tensor in tensors:
        names = tensor.matrix_names()
        yield Member(tensor, names.index(subject) if len(names) > 1 and subject in names else None)


def _layer(tensors: Sequence[AlignedTensor]) -> int | None:
    layers = {tensor.place.layer for tensor in tensors}
    return layers.pop() if len(layers) == 1 else None
