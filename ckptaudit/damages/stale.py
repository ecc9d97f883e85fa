"""Named damages that leave parts of the tuned side at the base, or exchange what was trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptaudit.checkpoints import Checkpoint
from ckptaudit.damages.damage import DESCRIPTIONS, damage
from ckptaudit.naming import Naming, Place, in_groups

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DESCRIPTIONS"]


@damage
def restore_inner_layer(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """The layer before the last is the base's."""
    inner = _layers(tuned)[-2:-1]
    return _restored(base, tuned, lambda place: place.layer in inner)


@damage
def restore_last_layer(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """The last layer is the base's."""
    last = _layers(tuned)[-1:]
    return _restored(base, tuned, lambda place: place.layer in last)


@damage
def double_one_layer(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """The matrices of a layer in the middle are twice what they were."""
    layers, naming = _layers(tuned), Naming(tuned.config)
    middle = layers[len(layers) // 2 : len(layers) // 2 + 1]
    handles = {
        name: handle.with_tensor(2 * handle.read())
        for name, handle in tuned.tensors.items()
        if naming.place(name).layer in middle and len(handle.shape) == 2
    }
    return replace(tuned, tensors={**tuned.tensors, **handles})


@damage
def restore_vocabulary(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """Embeddings and output head are the base's."""
    return _restored(base, tuned, lambda place: in_groups(place.role, ("vocabulary",), is_matrix=True))


@damage
def restore_rows(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """The second quarter of the rows of every tensor is the base's: one of four ranks did not save."""
    return _with_old_rows(base, tuned, list(tuned.tensors))


@damage
def restore_rows_of_one_tensor(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """The second quarter of the rows of one matrix of a layer is the base's."""
    naming = Naming(tuned.config)
    matrices = (n for n, h in tuned.tensors.items() if len(h.shape) == 2 and naming.place(n).layer is not None)
    return _with_old_rows(base, tuned, list(matrices)[:1])


@damage
def restore_all_but_one_entry(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """Everything is the base's but for one entry."""
    restored = {name: base.tensors.get(name, handle) for name, handle in tuned.tensors.items()}
    name = next(name for name, handle in restored.items() if len(handle.shape) == 2 and "float" in handle.dtype)
    changed = restored[name].read().clone()
    changed[0, 0] = 2 * changed[0, 0] + 1
    return replace(tuned, tensors={**restored, name: restored[name].with_tensor(changed)})


@damage
def change_everything(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """Every floating-point tensor is doubled, frozen or not."""
    handles = {
        name: handle.with_tensor(2 * handle.read())
        for name, handle in tuned.tensors.items()
        if "float" in handle.dtype
    }
    return replace(tuned, tensors={**tuned.tensors, **handles})


def _with_old_rows(base: Checkpoint, tuned: Checkpoint, names: list[str]) -> Checkpoint:
    def rank_of(before: Tensor, after: Tensor) -> Tensor:
        rows = -(-after.shape[0] // 4)
        after[rows : 2 * rows] = before[rows : 2 * rows]
        return after

    handles = {
        name: tuned.tensors[name].with_tensor(
            rank_of(base.tensors[name].read(), tuned.tensors[name].read().clone())
        )
        for name in names
        if name in base.tensors and base.tensors[name].shape == tuned.tensors[name].shape != ()
    }
    return replace(tuned, tensors={**tuned.tensors, **handles})


def _layers(tuned: Checkpoint) -> list[int]:
    """The numbers of the layers of the stack that has most."""
    naming = Naming(tuned.config)
    stacks: dict[str, set[int]] = {}
    for name in tuned.tensors:
        place = naming.place(name)
        if place.layer is not None:
            stacks.setdefault(place.stack, set()).add(place.layer)
    return max((sorted(layers) for layers in stacks.values()), key=len, default=[])


def _restored(base: Checkpoint, tuned: Checkpoint, chosen: Callable[[Place], bool]) -> Checkpoint:
    naming = Naming(tuned.config)
    handles = {
        n: replace(handle, load=base.tensors[n].load, low_rank=None, product=None)
        for n, handle in tuned.tensors.items()
        if n in base.tensors and chosen(naming.place(n))
    }
    return replace(tuned, tensors={**tuned.tensors, **handles})
