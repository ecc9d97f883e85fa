"""A second set of weights in the folder: what is there besides what was opened, and whether it is the same."""

from __future__ import annotations

from ckptaudit.artifact.facts import RELEASES, OtherWeights
from ckptaudit.artifact.known_names import LOADED
from ckptaudit.artifact.listing import Entry, entries
from ckptaudit.artifact.places import Places
from ckptaudit.checkpoints import Checkpoint, open_checkpoint
from ckptaudit.checkpoints.json_files import clipped, read_document
from ckptaudit.checkpoints.shards import ShardIndex
from ckptaudit.errors import CheckpointError
from ckptaudit.foreign_files.places import Place

BUDGET = 2**31


def other_weights(checkpoint: Checkpoint, where: Places) -> tuple[OtherWeights, ...]:
    """Each complete set of weights of the folder that was not opened, compared up to the first difference.

    Equal copies are no fact. At most 2 GiB of each are compared; what is left over is said to be unknown.
    """
    if where.weights is None or checkpoint.format not in RELEASES:
        return ()
    listing = entries(where.weights)
    present = [name for name in LOADED if name in listing]
    opened = next((name for name in present if _is_opened(checkpoint, where.weights / name, listing[name])), None)
    if opened is None:
        return ()
    others = [name for name in present if name != opened]
    found = ((name, _difference(checkpoint, where.weights / name)) for name in others)
    return tuple(
        OtherWeights(name, difference, loads_first=present.index(name) < present.index(opened))
        for name, difference in found
        if difference
    )


def difference(checkpoint: Checkpoint, other: Checkpoint) -> str:
    """How two checkpoints first differ, in words; empty if they do not."""
    missing = sorted(checkpoint.tensors.keys() ^ other.tensors.keys())
    if missing:
        return f"it has not the same tensors ({clipped(missing[0])}, {len(missing):,} in all)"
    read = 0
    for name, handle in checkpoint.tensors.items():
        twin = other.tensors[name]
        if (handle.shape, handle.dtype) != (twin.shape, twin.dtype):
            opened, other_one = _seen(handle.shape, handle.dtype), _seen(twin.shape, twin.dtype)
            return f"{clipped(name)} is {other_one}, and {opened} in the files that were opened"
        if not _same(checkpoint, other, name):
            return f"{clipped(name)} holds other numbers"
        read += handle.parameters * 4
        if read > BUDGET:
            return "the first tensors agree, the rest was not compared"
    return ""


def _is_opened(checkpoint: Checkpoint, path: Place, entry: Entry) -> bool:
    files = {handle.file for handle in checkpoint.tensors.values()}
    if entry.kind != "file":
        return False
    if path.suffix != ".json":
        return files == {path}
    try:
        shards = set(read_document(path, ShardIndex).weight_map.values())
    except CheckpointError:
        return False
    return {file.name for file in files} <= shards


def _difference(checkpoint: Checkpoint, path: Place) -> str:
    try:
        return difference(checkpoint, open_checkpoint(path))
    except CheckpointError as error:
        return f"it cannot be read ({clipped(error)})"


def _same(checkpoint: Checkpoint, other: Checkpoint, name: str) -> bool:
    import torch

    one, twin = checkpoint.tensors[name].read(), other.tensors[name].read()
    raw = torch.uint8 if one.numel() else one.dtype
    return torch.equal(one.contiguous().flatten().view(raw), twin.contiguous().flatten().view(raw))


def _seen(shape: tuple[int, ...], dtype: str) -> str:
    return f"{list(shape)} {dtype}"
