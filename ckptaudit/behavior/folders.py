"""Where the files lie that a model is run with, beside its weights: configuration, tokenizer, end tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ckptaudit.checkpoints import Checkpoint
from ckptaudit.checkpoints.json_files import read_settings
from ckptaudit.foreign_files import is_regular
from ckptaudit.foreign_files.places import Place

INNER = ("", "huggingface")
"""The checkpoint's own folder, and the one inside that verl keeps configuration and tokenizer in."""


def folders(checkpoint: Checkpoint) -> tuple[Place, ...]:
    """The folder of a checkpoint, then those of what it was merged into or is a change of, nearest first."""
    found = (_own(one) / name if name else _own(one) for one in _origins(checkpoint) for name in INNER)
    return tuple(dict.fromkeys(folder for folder in found if folder.is_dir()))


def stored_config(checkpoint: Checkpoint) -> dict[str, object]:
    """The configuration that it was opened with, else one beside its single file; empty without either.

    Raises CheckpointError for one that cannot be read.
    """
    if checkpoint.config:
        return dict(checkpoint.config)
    file = next((path for folder in folders(checkpoint) if is_regular(path := folder / "config.json")), None)
    return {} if file is None else dict(read_settings(file))


def _origins(checkpoint: Checkpoint) -> Iterator[Checkpoint]:
    yield checkpoint
    if checkpoint.merged_from is not None:
        yield from _origins(checkpoint.merged_from[0])
    if checkpoint.patched_from is not None:
        yield from _origins(checkpoint.patched_from)


def _own(checkpoint: Checkpoint) -> Place:
    path = checkpoint.place or Path(checkpoint.path)
    return path.parent if path.is_file() else path
