"""transformers and TRL: `log_history` of the last `checkpoint-N/trainer_state.json`, or of one that is passed.

A step's loss of NaN may be missing from it (logging_nan_inf_filter), so absence of NaN proves little there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ckptaudit.errors import RolloutError, printable
from ckptaudit.rollouts.files import numbered, regular_file
from ckptaudit.rollouts.scalars import ScalarRow

NAME = "trainer_state.json"
FILES = "checkpoint-*/trainer_state.json"
MAX_BYTES = 512 * 2**20
_FILE = "trainer_state.json"


def _file(path: Path) -> Path | None:
    if path.name == _FILE:
        return path
    last = [folder for _, folder in numbered(path, r"checkpoint-(\d{1,18})")][-1:]
    return next((folder / _FILE for folder in (path, *last) if (folder / _FILE).is_file()), None)


def recognises(path: Path) -> bool:
    """Whether there is such a file."""
    return _file(path) is not None


def files(path: Path) -> list[Path]:
    """The file that is read."""
    return [file] if (file := _file(path)) else []


def rows(path: Path) -> Iterator[ScalarRow]:
    """All numbers of the history; those of evaluations keep their eval_ and so have no canonical name."""
    file = _file(path) or path
    for entry in _history(file):
        step = entry.get("step")
        if not isinstance(step, int):
            raise RolloutError(f"{printable(file)}: an entry of log_history has no step.")
        for name, value in entry.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and name not in ("step", "epoch"):
                yield ScalarRow(name, step, float(value))


def _history(file: Path) -> list[dict[str, Any]]:
    if regular_file(file) > MAX_BYTES:
        raise RolloutError(f"{printable(file)}: more than {MAX_BYTES:,} bytes.")
    try:
        history = json.loads(file.read_bytes())["log_history"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RolloutError(
            f"{printable(file)}: no trainer state with a log_history can be read from it."
        ) from error
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        raise RolloutError(f"{printable(file)}: its log_history is not a list of entries.")
    return history
