"""The tokens at which an answer ends, as the files of a checkpoint say."""

from __future__ import annotations

from pathlib import Path

from ckptaudit.checkpoints import Checkpoint
from ckptaudit.checkpoints.json_files import read_settings
from ckptaudit.errors import CheckpointError
from ckptaudit.foreign_files import is_regular
from ckptaudit.foreign_files.places import Place

GENERATION = "generation_config.json"
MOST = 64
"""End tokens that are looked at."""


def end_tokens(checkpoint: Checkpoint, base: Checkpoint) -> tuple[int, ...]:
    """Of generation_config.json, else of the configuration; of an adapter those of its base."""
    own = checkpoint if checkpoint.merged_from is None else base
    file = _folder(own) / GENERATION
    if is_regular(file):
        try:
            return _tokens(read_settings(file).get("eos_token_id"))
        except CheckpointError:
            return ()
    return _tokens((own.config or base.config).get("eos_token_id"))


def _folder(checkpoint: Checkpoint) -> Place:
    path = checkpoint.place or Path(checkpoint.path)
    return path.parent if path.is_file() else path


def _tokens(stated: object) -> tuple[int, ...]:
    listed = stated[:MOST] if isinstance(stated, list) else [stated]
    return tuple(token for token in listed if isinstance(token, int) and not isinstance(token, bool) and token >= 0)
