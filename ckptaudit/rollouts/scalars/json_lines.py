"""JSON lines: verl's file logger ({"step", "data": {...}}) and prime-rl's metrics ({"step", name: value, ...})."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ckptaudit.errors import RolloutError, printable
from ckptaudit.rollouts.lines import first_line, json_lines
from ckptaudit.rollouts.scalars import ScalarRow

NAME = "JSON lines"
FILES = "*.jsonl with step and numbers"


def _files(path: Path) -> list[Path]:
    files = [path] if path.is_file() else sorted(path.glob("*.jsonl"))
    return [file for file in files if file.suffix == ".jsonl" and file.is_file()]


def recognises(path: Path) -> bool:
    """Whether a file's first line has a step, and either data or numbers."""
    return any(_holds_scalars(file) for file in _files(path))


def _holds_scalars(file: Path) -> bool:
    line = first_line(file)
    if line is None or not isinstance(line.get("step"), int) or "output" in line:
        return False
    return isinstance(line.get("data"), dict) or any(isinstance(value, float) for value in line.values())


def files(path: Path) -> list[Path]:
    """The files that are read, in order."""
    return list(filter(_holds_scalars, _files(path)))


def rows(path: Path) -> Iterator[ScalarRow]:
    """All numbers of all files that hold scalars."""
    for file in files(path):
        for number, line in enumerate(json_lines(file, dict[str, Any])):
            step, data = line.get("step"), line.get("data", line)
            if step is None:
                continue
            if not isinstance(step, int) or not isinstance(data, dict):
                raise RolloutError(f"{printable(file)}: line {number + 1} has no step as a number, or no data.")
            for name, value in data.items():
                if isinstance(value, int | float) and not isinstance(value, bool) and name != "step":
                    yield ScalarRow(name, step, float(value))
