"""Quantities of several weights taken together: a matrix, a layer's weights, or the whole model's, as one vector.

A span over a layer is the span of the layer's concatenated gradients, which no average over its matrices gives.
Every quantity is a fold over pieces, so that memory is set by one tensor and not by the group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from ckptaudit.errors import MeasurementError, printable
from ckptaudit.metrics.measurement import Measurement
from ckptaudit.metrics.metric import METRICS, Scale, Scope, register
from ckptaudit.options import AUXILIARY
from ckptaudit.pairing import AlignedTensor, ModelPair
from ckptaudit.pairing.auxiliary import Auxiliary, AuxiliaryInput
from ckptaudit.pairing.model_pair import FLOATING
from ckptaudit.pairing.runs import Run

Per = Literal["matrix", "layer", "model"]
PER: tuple[Per, ...] = ("matrix", "layer", "model")

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
class WeightGroup:
    """Weights of a pair that are measured as one, with the inputs that every one of them has."""

    pair: ModelPair
    members: tuple[Member, ...]
    inputs: Mapping[str, AuxiliaryInput] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    shared: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def entries(self) -> int:
        """How many numbers the concatenated vector has."""
        return sum(math.prod(m.tensor.matrix_shape[m.index is not None :]) for m in self.members)

    def once(self, name: str, derive: Callable[[], Any]) -> Any:
        """What several metrics of a run derive alike, derived once."""
        if name not in self.shared:
            self.shared[name] = derive()
        return self.shared[name]

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
                {name: rows for name, rows in given.items() if AUXILIARY[name].layout == "samples"},
                {name: rows[0] for name, rows in given.items() if AUXILIARY[name].layout == "weights"},
            )

    def _wide(self, stored: Tensor) -> Tensor:
        return stored.to(self.device).double()


@dataclass(frozen=True, slots=True)
class GroupMetric:
    """A named quantity of a group: `needs` names what it takes beside the pair, `per` where it means anything."""

    name: str
    unit: str
    scale: Scale
    formula: str
    source: str
    needs: tuple[str, ...]
    compute: Callable[[WeightGroup], Reading]
    per: tuple[Per, ...] = PER
    scope: Scope = "group"


def group_metric(
    *, unit: str, scale: Scale, formula: str, source: str, inputs: tuple[str, ...], per: tuple[Per, ...] = PER
) -> Callable[[Callable[[WeightGroup], Reading]], Callable[[WeightGroup], Reading]]:
    """Register the decorated function under its own name."""

    def register_function(function: Callable[[WeightGroup], Reading]) -> Callable[[WeightGroup], Reading]:
        register(GroupMetric(function.__name__, unit, scale, formula, source, inputs, function, per))
        return function

    return register_function


def group_metric_of(name: str) -> GroupMetric:
    """The metric of that name, which is one of several weights taken together."""
    metric = METRICS[name]
    assert isinstance(metric, GroupMetric)  # callers have looked at its scope
    return metric


def counts(tensor: AlignedTensor) -> bool:
    """Whether a weight can be part of a group: floating point on both sides, and not empty."""
    return tensor.base.dtype in FLOATING and tensor.tuned.dtype in FLOATING and tensor.base.parameters > 0


def measure_group(
    metric: GroupMetric,
    subject: str,
    roles: Sequence[str],
    run: Run,
    tensors: Sequence[AlignedTensor],
    auxiliary: Auxiliary,
    device: torch.device,
    shared: dict[str, Any] | None = None,
) -> Measurement:
    """A metric of the weights that all its inputs cover, taken together, under the subject's name.

    `shared` keeps what several metrics of the run derive alike.
    """
    needed = {name: auxiliary[name] for name in metric.needs}
    covered = [t for t in tensors if all(one.covers(t) for one in needed.values())]
    chosen = tuple(_members(subject, covered))
    group = WeightGroup(run.pair, chosen, needed, device, {} if shared is None else shared)
    try:
        reading = metric.compute(group) if chosen else Reading(None, remark="no weight here has all inputs")
    except MeasurementError as error:
        reading = Reading(None, remark=error.sentence.rstrip("."))
    except (ArithmeticError, LinAlgError) as error:
        # Python's own floats raise where a square leaves their range, and LAPACK where it meets the result.
        reading = Reading(None, remark=f"the numbers are too large or too small to be multiplied ({error})")
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
        kind="exact",
        remark="; ".join(filter(None, (reading.remark, blind))),
        tuned=run.path,
    )


def _members(subject: str, tensors: Sequence[AlignedTensor]) -> Iterator[Member]:
    for tensor in tensors:
        names = tensor.matrix_names()
        yield Member(tensor, names.index(subject) if len(names) > 1 and subject in names else None)


def _layer(tensors: Sequence[AlignedTensor]) -> int | None:
    layers = {tensor.place.layer for tensor in tensors}
    return layers.pop() if len(layers) == 1 else None
