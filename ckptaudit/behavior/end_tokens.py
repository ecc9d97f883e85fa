"""The tokens at which an answer ends, as the files of a checkpoint say."""

from __future__ import annotations

from collections.abc import Mapping

from ckptaudit.behavior.folders import folders, stored_config
from ckptaudit.checkpoints import Checkpoint
from ckptaudit.checkpoints.json_files import read_settings
from ckptaudit.errors import CheckpointError
from ckptaudit.foreign_files import is_regular

GENERATION = "generation_config.json"
MOST = 64
"""End tokens that are looked at."""


def end_tokens(checkpoint: Checkpoint, base: Checkpoint) -> tuple[int, ...]:
    """Of generation_config.json, else of the configuration; of an adapter those of what it was merged into.

    As transformers does: a file that cannot be read is as none, and 2.0 is the token 2.
    """
    file = next((path for folder in folders(checkpoint) if is_regular(path := folder / GENERATION)), None)
    try:
        return _tokens(read_settings(file)) if file is not None else _of_configuration(checkpoint, base)
    except CheckpointError:
        return _of_configuration(checkpoint, base)


def _of_configuration(checkpoint: Checkpoint, base: Checkpoint) -> tuple[int, ...]:
    try:
        return _tokens(stored_config(checkpoint) or stored_config(base))
    except CheckpointError:
        return ()


def _tokens(settings: Mapping[str, object]) -> tuple[int, ...]:
    stated = settings.get("eos_token_id")
    listed = stated[:MOST] if isinstance(stated, list) else [stated]
    numbers = (token for token in listed if isinstance(token, int | float) and not isinstance(token, bool))
    return tuple(int(number) for number in numbers if number >= 0 and number == number // 1)
