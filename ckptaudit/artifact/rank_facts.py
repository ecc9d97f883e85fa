"""Rank files against each other and against the export that the trainer wrote beside them."""

from __future__ import annotations

from ckptaudit.artifact.facts import RankFact
from ckptaudit.artifact.other_weights import difference
from ckptaudit.artifact.places import EXPORT, Places
from ckptaudit.checkpoints import Checkpoint, open_checkpoint
from ckptaudit.checkpoints.storage import StoredTensor
from ckptaudit.checkpoints.torch_files import fsdp_ranks
from ckptaudit.errors import CheckpointError


def rank_facts(checkpoint: Checkpoint, where: Places) -> tuple[RankFact, ...]:
    """Tensors stored complete by every rank that differ between ranks, and an export that differs from them."""
    if checkpoint.format != "rank files" or where.weights is None:
        return ()
    return (*_replicas(where), *_export(checkpoint, where))


def _replicas(where: Places) -> list[RankFact]:
    import torch

    found = []
    for name, copies in fsdp_ranks.replicas(where.weights).items() if where.weights else ():
        first = copies[0].load()
        other = next((c for c in copies[1:] if not _fits(c, copies[0]) or not torch.equal(first, c.load())), None)
        if other is not None:
            found.append(RankFact(name, other.file.name, f"it differs from {copies[0].file.name}"))
    return found


def _fits(copy: StoredTensor, first: StoredTensor) -> bool:
    return (copy.shape, copy.dtype) == (first.shape, first.dtype)


def _export(checkpoint: Checkpoint, where: Places) -> list[RankFact]:
    folder = where.weights / EXPORT if where.weights is not None else None
    if folder is None or not any(any(folder.glob(ending)) for ending in ("*.safetensors", "*.bin")):
        return []
    try:
        differs = difference(checkpoint, open_checkpoint(folder))
    except CheckpointError as error:
        differs = f"it cannot be read ({error})"
    return [RankFact("", f"{EXPORT}/", differs)] if differs else []
