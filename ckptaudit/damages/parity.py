"""Named damages to what is claimed to be made of other files: conversions, merges of adapters and of models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptaudit.checkpoints import Checkpoint, TensorHandle
from ckptaudit.damages.damage import DESCRIPTIONS, damage, damage_to_inputs, is_matrix
from ckptaudit.naming import Naming
from ckptaudit.pairing.auxiliary import Auxiliary

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DESCRIPTIONS"]


@damage
def halve_adapter_update(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """Every update is half as large, as a merge with the wrong scale makes it."""
    return _updated(base, tuned, lambda before, after: before + 0.5 * (after - before))


@damage_to_inputs
def shrink_adapter(inputs: Auxiliary) -> Auxiliary:
    """The adapter is a billionth of what was trained, and no number of the base's type moves."""
    given = inputs["adapter"]
    adapter = given.checkpoints[0]
    assert adapter.adapter is not None  # the input was opened as one
    factors = {module: replace(own, scale=1e-9 * own.scale) for module, own in adapter.adapter.factors.items()}
    small = replace(adapter, adapter=replace(adapter.adapter, factors=factors))
    return Auxiliary({**inputs.given, "adapter": replace(given, checkpoints=(small,))})


def _updated(base: Checkpoint, tuned: Checkpoint, change: Callable[[Tensor, Tensor], Tensor]) -> Checkpoint:
    # A base that is BASE+ADAPTER holds the update already.
    origin = base if base.merged_from is None else base.merged_from[0]
    changed = {
        name: _with_change(origin.tensors[name], handle, change)
        for name, handle in tuned.tensors.items()
        if name in origin.tensors and is_matrix(handle)
    }
    return replace(tuned, tensors={**tuned.tensors, **changed})


def _with_change(
    base: TensorHandle, tuned: TensorHandle, change: Callable[[Tensor, Tensor], Tensor]
) -> TensorHandle:
    def load() -> Tensor:
        before, after = base.read(), tuned.read()
        return change(before.double(), after.double()).to(after.dtype)

    return replace(tuned, load=load, low_rank=None, product=None)


@damage
def exchange_two_layers(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """Each matrix of the first role that two layers have is stored under the other's name."""
    naming = Naming(tuned.config)
    seen: dict[tuple[str, tuple[int, ...]], str] = {}
    for name, handle in tuned.tensors.items():
        key = (naming.place(name).role, handle.shape)
        if is_matrix(handle) and naming.place(name).layer is not None and key in seen:
            other = seen[key]
            return replace(tuned, tensors={**tuned.tensors, name: tuned.tensors[other], other: handle})
        seen[key] = name
    return tuned


@damage
def quantise_to_float8(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """Every matrix goes through float8_e4m3 with one scale a tensor, and is stored in it."""
    narrow = {name: _quantised(handle) for name, handle in tuned.tensors.items() if is_matrix(handle)}
    return replace(tuned, tensors={**tuned.tensors, **narrow})


def _quantised(handle: TensorHandle) -> TensorHandle:
    def load() -> Tensor:
        import torch

        own = handle.read()
        scale = own.float().abs().max().clamp_min(1e-12) / 448
        return ((own.float() / scale).to(torch.float8_e4m3fn).float() * scale).to(own.dtype)

    return replace(handle, load=load, quantised="float8_e4m3fn", low_rank=None, product=None)


@damage
def add_noise_to_merge(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """Every matrix gains noise of a twentieth of its size, which no parent has."""

    def noisy(before: Tensor, after: Tensor) -> Tensor:
        import torch

        noise = torch.randn(after.shape, generator=torch.Generator().manual_seed(0), dtype=after.dtype)
        return after + 0.05 * after.square().mean().sqrt() * noise

    return _updated(base, tuned, noisy)


@damage
def leave_matrix_at_base(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """The first matrix that the merge changed is the base's."""
    for name, handle in tuned.tensors.items():
        if is_matrix(handle) and name in base.tensors and not base.tensors[name].read().equal(handle.read()):
            return replace(tuned, tensors={**tuned.tensors, name: base.tensors[name]})
    return tuned


@damage
def flip_update(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """Every matrix moved the other way: W0 - D in place of W0 + D."""
    return _updated(base, tuned, lambda before, after: 2 * before - after)
