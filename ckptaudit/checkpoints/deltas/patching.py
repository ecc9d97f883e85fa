"""A base and its sparse deltas as full weights, each made when it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from ckptaudit.checkpoints.adapters.name_ends import EndIndex
from ckptaudit.checkpoints.deltas.entries import PatchedTensor, positions
from ckptaudit.checkpoints.json_files import clipped
from ckptaudit.checkpoints.tensors import ChangedEntries, Checkpoint, SparsePatch, TensorHandle
from ckptaudit.errors import CheckpointError, printable

CHECKED_AT_OPENING = 256 * 2**20
"""Bytes of indices up to which every position is checked before anything is measured, not only when it is read."""


def several(first: Checkpoint, second: Checkpoint) -> Checkpoint:
    """Two deltas without their base, one after the other. Raises CheckpointError where the order is wrong."""
    patches = (*first.patches, *second.patches)
    refuse_other_order(patches)
    return replace(second, patches=patches)


def apply_patches(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """The base with the deltas of `tuned` put into it, in order; what none of them names is the base's own.

    No dense update is made: a weight is read from the base when it is measured, and the new values written into
    it. Raises CheckpointError if a delta changes what the base lacks, or is of another shape or dtype.
    """
    patches = (*base.patches, *tuned.patches)
    refuse_other_order(patches)
    changes: dict[str, list[ChangedEntries]] = {}
    names = EndIndex(base.tensors)
    for patch in tuned.patches:
        for target, entries in _targets(base, names, patch):
            changes.setdefault(target, []).append(entries)
    tensors = {
        name: _patched(replace(handle, file=tuned.patches[-1].path), changes.get(name, ()))
        for name, handle in base.tensors.items()
    }
    return replace(tuned, tensors=tensors, config=base.config, patches=patches, patched_from=base)


def refuse_other_order(patches: Sequence[SparsePatch]) -> None:
    """Raise CheckpointError where the versions that deltas state do not follow each other."""
    for before, after in pairwise(patches):
        if before.version is not None and after.version is not None and after.version != before.version + 1:
            raise CheckpointError(
                f"{printable(after.path)}: the delta of version {after.version}, after that of version "
                f"{before.version}; name all of them in order."
            )


def _targets(base: Checkpoint, names: EndIndex, patch: SparsePatch) -> list[tuple[str, ChangedEntries]]:
    """The base's name of each changed weight, its shape, dtype and positions checked."""
    found = [(_target(base, names, patch, entries), entries) for entries in patch.entries.values()]
    if len({name for name, _ in found}) < len(found):
        raise CheckpointError(f"{printable(patch.path)}: two parts of it change one weight; write it again.")
    covered = sum(base.tensors[name].parameters for name, _ in found)
    if patch.covered not in (None, covered):
        raise CheckpointError(
            f"{printable(patch.path)}: made for weights of {patch.covered:,} entries, and those of the base have "
            f"{covered:,}; pass the base that it was made from."
        )
    if sum(entries.indices.parameters for _, entries in found) * 4 <= CHECKED_AT_OPENING:
        for name, entries in found:
            positions(entries, base.tensors[name].parameters)
    return found


def _target(base: Checkpoint, names: EndIndex, patch: SparsePatch, entries: ChangedEntries) -> str:
    name = names.find(entries.name)
    if name is None:
        raise CheckpointError(
            f"{printable(patch.path)}: the delta changes {clipped(entries.name)}, which the base does not hold; "
            "pass the base that it was made from."
        )
    weight = base.tensors[name]
    shape = patch.shapes.get(entries.name, weight.shape)
    if shape != weight.shape:
        raise CheckpointError(
            f"{printable(patch.path)}: made for {clipped(entries.name)} of shape {list(shape)[:64]}, and the "
            f"base's has {list(weight.shape)}; pass the base that it was made from."
        )
    if entries.values.dtype != weight.dtype:
        raise CheckpointError(
            f"{printable(patch.path)}: the delta of {clipped(entries.name)} holds {entries.values.dtype}, and the "
            f"base {weight.dtype}; pass the base in the type that the run served."
        )
    return name


def _patched(weight: TensorHandle, changes: Sequence[ChangedEntries]) -> TensorHandle:
    changes = [change for change in changes if change.count]
    if not changes:
        return weight
    return replace(
        weight, load=PatchedTensor(weight, tuple(changes)).load, low_rank=None, product=None, quantised=""
    )
