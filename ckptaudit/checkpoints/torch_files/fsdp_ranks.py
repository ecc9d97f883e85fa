"""Reader for `model_world_size_N_rank_R.pt`: one file per rank with its shards, as verl's FSDP workers save.

The shards of a tensor are put together when it is read, so no more than one tensor is whole at a time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ckptaudit.checkpoints.json_files import clipped
from ckptaudit.checkpoints.storage import StoredTensor
from ckptaudit.checkpoints.tensors import TensorHandle
from ckptaudit.checkpoints.torch_files.archive import open_archive
from ckptaudit.checkpoints.torch_files.records import ShardedTensor
from ckptaudit.checkpoints.torch_files.unpickle import Call
from ckptaudit.errors import CheckpointError, printable

if TYPE_CHECKING:
    from torch import Tensor

RANK_FILE = re.compile(r"model_world_size_(\d{1,6})_rank_(\d{1,6})\.pt")

Shard = StoredTensor | ShardedTensor


@dataclass(frozen=True, slots=True)
class Parts:
    """The distinct shards of one tensor, in order along the axis that they split."""

    shards: tuple[StoredTensor, ...]
    axis: int

    def load(self) -> Tensor:
        """The whole tensor on the CPU."""
        import torch

        return torch.cat([shard.load() for shard in self.shards], dim=self.axis)


def is_rank_folder(folder: Path) -> bool:
    """Whether any rank's file is here."""
    return any(RANK_FILE.fullmatch(file.name) for file in folder.glob("model_world_size_*_rank_*.pt"))


def read_ranks(folder: Path) -> dict[str, TensorHandle]:
    """Handles of the merged tensors. Raises CheckpointError if a rank is missing or the ranks disagree."""
    ranks = [_rank(path) for path in _rank_paths(folder)]
    names = sorted(ranks[0])
    if any(sorted(rank) != names for rank in ranks):
        raise CheckpointError(
            f"{printable(folder)}: the ranks' files do not hold the same tensors; they come from different saves."
        )
    return {name: _merged(folder, name, [rank[name] for rank in ranks]) for name in names}


def _rank_paths(folder: Path) -> list[Path]:
    found = {}
    for path in folder.glob("model_world_size_*_rank_*.pt"):
        match = RANK_FILE.fullmatch(path.name)
        if match and path.is_file():
            found[int(match[1]), int(match[2])] = path
    worlds = sorted({world for world, _ in found})
    if len(worlds) != 1:
        raise CheckpointError(
            f"{printable(folder)}: rank files of several world sizes ({worlds[:4]}); remove those of the "
            "older save."
        )
    missing = next((rank for rank in range(worlds[0]) if (worlds[0], rank) not in found), None)
    if missing is not None:
        raise CheckpointError(
            f"{printable(folder)}: rank {missing} of {worlds[0]} is missing; copy the files of all ranks here."
        )
    return [found[worlds[0], rank] for rank in range(worlds[0])]


def _rank(path: Path) -> dict[str, Shard]:
    archive = open_archive(path)
    if not isinstance(archive.contents, dict):
        raise CheckpointError(f"{printable(path)}: holds no state dict; pass the folder of the model's rank files.")
    found = {}
    for name, record in archive.contents.items():
        shard = archive.tensor(name, record) if isinstance(name, str) else None
        if shard is not None:
            found[name] = shard
    return found


def _merged(folder: Path, name: str, shards: list[Shard]) -> TensorHandle:
    whole = [shard for shard in shards if isinstance(shard, StoredTensor)]
    if len(whole) == len(shards):
        return whole[0].handle(name)
    parts = [shard for shard in shards if isinstance(shard, ShardedTensor)]
    try:
        axis, chosen = _ordered(parts)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise _disagree(folder, name) from error
    shape, dtype = parts[0].shape, chosen[0].dtype
    if len(parts) != len(shards) or any(p.shape != shape or p.local.dtype != dtype for p in parts):
        raise _disagree(folder, name)
    _check_cover(folder, name, shape, axis, chosen)
    load = Parts(tuple(chosen), axis).load
    return TensorHandle(name=name, shape=shape, dtype=dtype, file=chosen[0].file, load=load)


def _ordered(parts: list[ShardedTensor]) -> tuple[int, list[StoredTensor]]:
    """The axis that is split, and a shard for each piece of it; replicas on other mesh axes are left out."""
    split = [i for i, placement in enumerate(parts[0].placements) if _kind(placement) != "Replicate"]
    if len(split) > 1 or any(_kind(parts[0].placements[i]) != "Shard" for i in split):
        kinds = ", ".join(_kind(placement) for placement in parts[0].placements)
        raise CheckpointError(
            f"{printable(parts[0].local.file)}: tensors are split over the mesh as ({kinds}), of which "
            "only one Shard "
            "is read; merge the ranks with the trainer's own script first (verl: python -m "
            "verl.model_merger merge)."
        )
    if not split:
        return 0, [parts[0].local]
    axis = _axis(parts[0].placements[split[0]])
    pieces = {part.coordinate[split[0]]: part.local for part in reversed(parts)}
    rank_of = len(parts[0].shape)
    return axis + rank_of if axis < 0 else axis, [pieces[i] for i in sorted(pieces)]


def _check_cover(folder: Path, name: str, shape: tuple[int, ...], axis: int, shards: list[StoredTensor]) -> None:
    total = sum(shard.shape[axis] if axis < len(shard.shape) else -1 for shard in shards)
    others = all(_without(shard.shape, axis) == _without(shape, axis) for shard in shards)
    if not 0 <= axis < len(shape) or not others or total != shape[axis]:
        raise _disagree(folder, name)


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _axis(placement: Call) -> int:
    # Releases of PyTorch differ in whether a placement is made from its axis or given it afterwards.
    return int(placement.args[0] if placement.args else placement.state["dim"])


def _kind(placement: Call) -> str:
    return placement.name.rpartition(".")[2]


def _disagree(folder: Path, name: str) -> CheckpointError:
    return CheckpointError(
        f"{printable(folder)}: the ranks' shards of {clipped(name)} do not make up the whole tensor; "
        "save the checkpoint again, or merge it with the trainer's own script."
    )


def replicas(folder: Path) -> dict[str, tuple[StoredTensor, ...]]:
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
