"""Which folder holds a checkpoint's other files: its own, or the `huggingface/` that a trainer writes inside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ckptaudit.checkpoints import Checkpoint
from ckptaudit.foreign_files.places import Place

CONFIG = "config.json"
EXPORT = "huggingface"
INNER = ("", EXPORT, "actor", f"actor/{EXPORT}", "pytorch_model_fsdp_0")


@dataclass(frozen=True, slots=True)
class Places:
    """The folder of the documents, the folder of the weights, and the former as seen from the checkpoint."""

    documents: Place | None
    weights: Place | None
    prefix: str = ""


def places(checkpoint: Checkpoint) -> Places:
    """Where to read what. A file of weights has a folder only where a config.json lies beside it."""
    path = Path(checkpoint.path) if checkpoint.place is None else checkpoint.place
    if path.is_file():
        beside = path.parent if (path.parent / CONFIG).is_file() else None
        return Places(beside, beside)
    if not path.is_dir():
        return Places(None, None)
    inner = next((name for name in INNER if (path / name / CONFIG).is_file()), "")
    return Places(path / inner, _weights(path, checkpoint), f"{inner}/" if inner else "")


def _weights(path: Place, checkpoint: Checkpoint) -> Place:
    if checkpoint.is_update or not checkpoint.tensors:
        return path
    folder = next(iter(checkpoint.tensors.values())).file.parent
    return folder if folder.is_dir() else path
