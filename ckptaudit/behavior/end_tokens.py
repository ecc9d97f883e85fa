"""The tokens at which an answer ends, as the files of a checkpoint say."""

from __future__ import annotations

from ckptaudit.behavior.folders import folders, stored_config
from ckptaudit.checkpoints import Checkpoint
from ckptaudit.checkpoints.json_files import read_settings
from ckptaudit.errors import CheckpointError
from ckptaudit.foreign_files import is_regular

GENERATION = "generation_config.json"
MOST = 64
"""End tokens that are looked at."""


def end_tokens(checkpoint: Checkpoint, base: Checkpoint) -> tuple[int, ...]:
    """Of generation_config.json, else of the configuration; of an adapter those of what it was merged into."""
    file = next((path for folder in folders(checkpoint) if is_regular(path := folder / GENERATION)), None)
    try:
        stated = read_settings(file) if file is not None else stored_config(checkpoint) or stored_config(base)
    except CheckpointError:
        return ()
    return _tokens(stated.get("eos_token_id"))


def _tokens(stated: object) -> tuple[int, ...]:
    listed = stated[:MOST] if isinstance(stated, list) else [stated]
    return tuple(token for token in listed if isinstance(token, int) and not isinstance(token, bool) and token >= 0)
