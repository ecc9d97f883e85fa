"""Reader for `model_world_size_N_rank_R.pt`: one file per rank with its shards, as verl's FSDP workers save.

The shards of a tensor are put together when it is read, so no more than one tensor is whole at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from ckptaudit.checkpoints.json_files import clipped
from ckptaudit.checkpoints.storage import StoredTensor, itemsize
from ckptaudit.checkpoints.tensors import TensorHandle
from ckptaudit.checkpoints.torch_files.archive import open_archive
from ckptaudit.checkpoints.torch_files.records import ShardedTensor
from ckptaudit.checkpoints.torch_files.unpickle import Call
from ckptaudit.errors import CheckpointError, printable
from ckptaudit.foreign_files import is_regular
from ckptaudit.foreign_files.places import Place

if TYPE_CHECKING:
    from torch import Tensor

RANK_FILE = re.compile(r"model_world_size_(\d{1,6})_rank_(\d{1,6})\.pt")

Shard = StoredTensor | ShardedTensor


COMPARED_AT_ONCE = 64 * 2**20
"""Bytes of tensors that are not sharded compared between ranks on opening; larger ones when they are read."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """What several ranks saved of the same values; they must agree bit for bit."""

    name: str
    copies: tuple[StoredTensor, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of each."""
        return self.copies[0].shape

    @property
    def bytes(self) -> int:
        """Bytes to read for a comparison of all."""
        first = self.copies[0]
        return len(self.copies) * prod(first.shape) * itemsize(first.dtype)

    def load(self) -> Tensor:
        """The first rank's. Raises CheckpointError, naming both files, if another rank's differs in any bit."""
        first = self.copies[0].load()
        for other in self.copies[1:]:
            if not _same_bits(first, other.load()):
                raise CheckpointError(
                    f"{printable(other.file)}: its {clipped(self.name)} differs from that of "
                    f"{printable(self.copies[0].file.name)}, though the ranks share it; the files come from "
                    "different saves, or the ranks had drifted apart."
                )
        return first


@dataclass(frozen=True, slots=True)
class Parts:
    """The distinct shards of one tensor, in order along the axis that they split."""

    shards: tuple[Replicas, ...]
    axis: int

    def load(self) -> Tensor:
        """The whole tensor on the CPU."""
        import torch

        return torch.cat([shard.load() for shard in self.shards], dim=self.axis)


def is_rank_folder(folder: Place) -> bool:
    """Whether any rank's file is here."""
    return any(RANK_FILE.fullmatch(file.name) for file in folder.glob("model_world_size_*_rank_*.pt"))


def read_ranks(folder: Place) -> dict[str, TensorHandle]:
    """Handles of the merged tensors. Raises CheckpointError if a rank is missing or the ranks disagree."""
    ranks = [_rank(path) for path in _rank_paths(folder)]
    names = sorted(ranks[0])
    if any(sorted(rank) != names for rank in ranks):
        raise CheckpointError(
            f"{printable(folder)}: the ranks' files do not hold the same tensors; they come from different saves."
        )
    merged = {name: _merged(folder, name, [rank[name] for rank in ranks]) for name in names}
    _compare_unsharded(merged.values())
    return merged


def _rank_paths(folder: Place) -> list[Place]:
    found = {}
    for path in folder.glob("model_world_size_*_rank_*.pt"):
        match = RANK_FILE.fullmatch(path.name)
        if match and is_regular(path):
            found[int(match[1]), int(match[2])] = path
    worlds = sorted({world for world, _ in found})
    if len(worlds) != 1:
        raise CheckpointError(
            f"{printable(folder)}: rank files of several world sizes ({worlds[:4]}); remove those of the "
            "older save."
        )
    if not worlds[0]:
        raise CheckpointError(f"{printable(folder)}: rank files of a world of no ranks; save the checkpoint again.")
    missing = next((rank for rank in range(worlds[0]) if (worlds[0], rank) not in found), None)
    if missing is not None:
        raise CheckpointError(
            f"{printable(folder)}: rank {missing} of {worlds[0]} is missing; copy the files of all ranks here."
        )
    return [found[worlds[0], rank] for rank in range(worlds[0])]


def _rank(path: Place) -> dict[str, Shard]:
    archive = open_archive(path)
    if not isinstance(archive.contents, dict):
        raise CheckpointError(f"{printable(path)}: holds no state dict; pass the folder of the model's rank files.")
    return archive.tensors(archive.contents)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    import torch

    # Of floats, equal would find a NaN unlike itself.
    first, second = (tensor.contiguous().flatten().view(torch.uint8) for tensor in (one, other))
    return torch.equal(first, second)


def _merged(folder: Place, name: str, shards: list[Shard]) -> TensorHandle:
    parts = [shard for shard in shards if isinstance(shard, ShardedTensor)]
    if not parts:
        return _unsharded(folder, name, [shard for shard in shards if isinstance(shard, StoredTensor)])
    try:
        axis, chosen = _ordered(name, parts)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise _disagree(folder, name) from error
    shape, dtype = parts[0].shape, parts[0].local.dtype
    if len(parts) != len(shards) or any(p.shape != shape or p.local.dtype != dtype for p in parts):
        raise _disagree(folder, name)
    if axis is None:
        return _unsharded(folder, name, [part.local for part in parts], shape)
    _check_cover(folder, name, shape, axis, chosen)
    load = Parts(tuple(chosen), axis).load
    return TensorHandle(name=name, shape=shape, dtype=dtype, file=parts[0].local.file, load=load)


def _unsharded(
    folder: Place, name: str, copies: list[StoredTensor], shape: tuple[int, ...] | None = None
) -> TensorHandle:
    first = copies[0]
    wanted = first.shape if shape is None else shape
    if any(copy.shape != wanted or copy.dtype != first.dtype for copy in copies):
        raise _disagree(folder, name)
    return replace(first.handle(name), load=Replicas(name, tuple(copies)).load)


def _compare_unsharded(tensors: Iterable[TensorHandle]) -> None:
    """Read what every rank holds in full and compare, as far as that is quick. Raises CheckpointError."""
    left = COMPARED_AT_ONCE
    for handle in tensors:
        replicas = getattr(handle.load, "__self__", None)
        if isinstance(replicas, Replicas):
            left -= replicas.bytes
            if left < 0:
                return
            replicas.load()


def _ordered(name: str, parts: list[ShardedTensor]) -> tuple[int | None, list[Replicas]]:
    """The axis that is split, None where none is, and the shards along it; other mesh axes hold replicas."""
    placements = parts[0].placements
    split = [i for i, placement in enumerate(placements) if _kind(placement) != "Replicate"]
    if len(split) > 1 or any(_kind(placements[i]) != "Shard" for i in split):
        kinds = ", ".join(_kind(placement) for placement in placements)
        raise CheckpointError(
            f"{printable(parts[0].local.file)}: tensors are split over the mesh as ({kinds}), of which "
            "only one Shard "
            "is read; merge the ranks with the trainer's own script first (verl: python -m "
            "verl.model_merger merge)."
        )
    if any([_kind(p) for p in part.placements] != [_kind(p) for p in placements] for part in parts):
        raise ValueError("the ranks are placed differently")
    if not split:
        return None, []
    (axis,) = {_axis(part.placements[split[0]], len(part.shape)) for part in parts}
    pieces: dict[int, list[StoredTensor]] = {}
    for part in parts:
        pieces.setdefault(part.coordinate[split[0]], []).append(part.local)
    return axis, [Replicas(name, tuple(pieces[i])) for i in sorted(pieces)]


def _check_cover(folder: Place, name: str, shape: tuple[int, ...], axis: int, shards: list[Replicas]) -> None:
    total = sum(shard.shape[axis] if axis < len(shard.shape) else -1 for shard in shards)
    others = all(_without(copy.shape, axis) == _without(shape, axis) for s in shards for copy in s.copies)
    same = all(copy.shape == shard.shape for shard in shards for copy in shard.copies)
    if not 0 <= axis < len(shape) or not others or not same or total != shape[axis]:
        raise _disagree(folder, name)


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _axis(placement: Call, axes: int) -> int:
    # Releases of PyTorch differ in whether a placement is made from its axis or given it afterwards.
    axis = placement.args[0] if placement.args else placement.state["dim"]
    if type(axis) is not int or not -axes <= axis < axes:
        raise ValueError("no axis of the tensor")
    return axis % axes


def _kind(placement: Call) -> str:
    return placement.name.rpartition(".")[2]


def _disagree(folder: Place, name: str) -> CheckpointError:
    return CheckpointError(
        f"{printable(folder)}: the ranks' shards of {clipped(name)} do not make up the whole tensor; "
        "save the checkpoint again, or merge it with the trainer's own script."
    )


def replicas(folder: Place) -> dict[str, tuple[StoredTensor, ...]]:
    """Tensors that each rank stores complete, one copy per rank in the ranks' order; they should be equal.

    Raises CheckpointError as `read_ranks` does.
    """
    ranks = [_rank(path) for path in _rank_paths(folder)]
    copies = {name: [_complete(rank.get(name)) for rank in ranks] for name in sorted(ranks[0])}
    found = {name: tuple(c for c in own if c is not None) for name, own in copies.items()}
    return {name: own for name, own in found.items() if len(own) == len(ranks) > 1}


def _complete(shard: Shard | None) -> StoredTensor | None:
    """The shard where it is the tensor itself: plain, or replicated on every axis of the mesh."""
    if isinstance(shard, ShardedTensor):
        return shard.local if all(_kind(p) == "Replicate" for p in shard.placements) else None
    return shard
