"""How damages to checkpoints are named and registered: to all of one, to single tensors, by or to the inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from ckptaudit.checkpoints import Checkpoint, TensorHandle
from ckptaudit.pairing.auxiliary import Auxiliary

if TYPE_CHECKING:
    from torch import Tensor

Rewrite = Callable[["Tensor", "Tensor"], "Tensor"]


class Damage(Protocol):
    """(base, tuned) to the damaged tuned; some damages work with the inputs of the audit, or on them."""

    def __call__(self, base: Checkpoint, tuned: Checkpoint, inputs: Auxiliary = ...) -> Checkpoint:
        """The damaged tuned side."""


NONE_GIVEN = Auxiliary()

DAMAGES: dict[str, Damage] = {}
INPUT_DAMAGES: dict[str, Callable[[Auxiliary], Auxiliary]] = {}
"""Damages to the inputs themselves, for checks that judge what the inputs alone decide."""
DESCRIPTIONS: dict[str, str] = {}


def damage(function: Callable[[Checkpoint, Checkpoint], Checkpoint]) -> Damage:
    """Register a damage to the whole checkpoint: (base, tuned) to the damaged tuned."""

    def damaged(base: Checkpoint, tuned: Checkpoint, inputs: Auxiliary = NONE_GIVEN) -> Checkpoint:
        return function(base, tuned)

    return _registered(function.__name__, function.__doc__, damaged)


def damage_by_inputs(function: Callable[[Checkpoint, Checkpoint, Auxiliary], Checkpoint]) -> Damage:
    """Register a damage that the inputs guide: (base, tuned, inputs) to the damaged tuned."""

    def damaged(base: Checkpoint, tuned: Checkpoint, inputs: Auxiliary = NONE_GIVEN) -> Checkpoint:
        return function(base, tuned, inputs)

    return _registered(function.__name__, function.__doc__, damaged)


def damage_to_inputs(function: Callable[[Auxiliary], Auxiliary]) -> Callable[[Auxiliary], Auxiliary]:
    """Register a damage to the inputs; the tuned side stays as it is."""
    _registered(function.__name__, function.__doc__, lambda base, tuned, inputs=NONE_GIVEN: tuned)
    INPUT_DAMAGES[function.__name__] = function
    return function


def damaged_inputs(name: str, inputs: Auxiliary) -> Auxiliary:
    """The inputs after a damage; most damages leave them alone."""
    return INPUT_DAMAGES[name](inputs) if name in INPUT_DAMAGES else inputs


def _registered(name: str, text: str | None, damaged: Damage) -> Damage:
    DAMAGES[name] = damaged
    DESCRIPTIONS[name] = text or ""
    return damaged


def _registered_for(keep: Callable[[TensorHandle], bool]) -> Callable[[Rewrite], Rewrite]:
    """Register a damage to single tensors: (W0, W1) in float64 to the damaged W1, for the handles kept."""

    def register(rewrite: Rewrite) -> Rewrite:
        def damaged(base: Checkpoint, tuned: Checkpoint, inputs: Auxiliary = NONE_GIVEN) -> Checkpoint:
            shared = {name for name in tuned.tensors if name in base.tensors and keep(tuned.tensors[name])}
            return with_tensors(
                tuned, {name: _rewritten(base.tensors[name], tuned.tensors[name], rewrite) for name in shared}
            )

        _registered(rewrite.__name__, rewrite.__doc__, damaged)
        return rewrite

    return register


def with_tensors(tuned: Checkpoint, handles: dict[str, TensorHandle]) -> Checkpoint:
    """The checkpoint with these in place of its own."""
    return replace(tuned, tensors={**tuned.tensors, **handles})


def _rewritten(base: TensorHandle, tuned: TensorHandle, rewrite: Rewrite) -> TensorHandle:
    def load() -> Tensor:
        before, after = base.read(), tuned.read()
        return rewrite(before.double(), after.double()).to(after.dtype)

    return replace(tuned, load=load)


def is_matrix(handle: TensorHandle) -> bool:
    """Whether it is a matrix of floating-point numbers that has entries."""
    return len(handle.shape) == 2 and "float" in handle.dtype and handle.parameters > 0


def _is_vector(handle: TensorHandle) -> bool:
    return len(handle.shape) == 1 and "float" in handle.dtype


matrices = _registered_for(is_matrix)
vectors = _registered_for(_is_vector)
floats = _registered_for(lambda handle: "float" in handle.dtype and handle.parameters > 0)
