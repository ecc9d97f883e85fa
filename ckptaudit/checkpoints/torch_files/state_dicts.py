"""Reader for state dicts that `torch.save` wrote: one file, or shards listed in an index."""

from __future__ import annotations

from typing import Any

from ckptaudit.checkpoints.json_files import clipped
from ckptaudit.checkpoints.storage import StoredTensor
from ckptaudit.checkpoints.tensors import TensorHandle
from ckptaudit.checkpoints.torch_files.archive import open_archive
from ckptaudit.checkpoints.torch_files.records import Archive
from ckptaudit.errors import CheckpointError, printable
from ckptaudit.foreign_files.places import Place

WRAPPERS = ("state_dict", "model_state_dict", "model", "module")


def read_file(path: Place) -> dict[str, TensorHandle]:
    """Handles of one file: a state dict, or a training state that holds one under a usual key."""
    archive = open_archive(path)
    weights = _weights(archive, archive.contents)
    found = {name: stored.handle(name) for name, stored in sorted(weights.items())}
    if not found:
        raise CheckpointError(
            f"{printable(path)}: no tensors in it, at the top or under {', '.join(WRAPPERS)}; pass the "
            "file of the weights."
        )
    return found


def _weights(archive: Archive, contents: Any) -> dict[str, StoredTensor]:
    """The tensors of the innermost wrapper that holds any."""
    for _ in WRAPPERS:
        inner = [
            contents[key] for key in WRAPPERS if isinstance(contents, dict) and isinstance(contents.get(key), dict)
        ]
        if not inner:
            break
        contents = inner[0]
    return _tensors(archive, contents) if isinstance(contents, dict) else {}


def _tensors(archive: Archive, state: dict[Any, Any]) -> dict[str, StoredTensor]:
    found = {}
    for name, stored in archive.tensors(state).items():
        if not isinstance(stored, StoredTensor):
            raise CheckpointError(
                f"{printable(archive.file)}: tensor {clipped(name)} is one rank's shard of a distributed "
                "tensor; "
                "pass the folder with the model_world_size_N_rank_R.pt files of all ranks."
            )
        found[name] = stored
    return found
