"""MLflow: its SQLite store, or the older folders `mlruns/{experiment}/{run}/metrics/{name}`.

The SQLite store must hold one run; a folder of runs too, or pass the run's own folder.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from ckptaudit.errors import RolloutError, printable
from ckptaudit.rollouts.files import regular_file
from ckptaudit.rollouts.lines import log_lines
from ckptaudit.rollouts.scalars import ScalarRow

NAME = "MLflow"
FILES = "mlflow.db, or a run's metrics/"
MAX_LINES = 5_000_000
MAX_LINE = 4096
"""Bytes of a line: a time, a value and a step."""


def _database(path: Path) -> Path | None:
    files = [path] if path.is_file() else [path / "mlflow.db"]
    return next((file for file in files if file.is_file() and file.suffix in (".db", ".sqlite")), None)


def _run_folders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    folders = [path / "metrics", *path.glob("*/metrics"), *path.glob("*/*/metrics")]
    return [folder for folder in folders if folder.is_dir() and (folder.parent / "meta.yaml").is_file()]


def recognises(path: Path) -> bool:
    """Whether there is a database with a table of metrics, or a run's folder."""
    database = _database(path)
    if database is None:
        return bool(_run_folders(path))
    try:
        with closing(_connected(database)) as connection:
            return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'metrics'").fetchone())
    except (sqlite3.Error, UnicodeDecodeError, RolloutError):
        return False


def files(path: Path) -> list[Path]:
    """The files that are read: a database, or those of the run's folder."""
    database = _database(path)
    if database is not None:
        return [database]
    return [file for folder in _run_folders(path) for file in _metric_files(folder)]


def rows(path: Path) -> Iterator[ScalarRow]:
    """All metrics of the one run."""
    database = _database(path)
    return _from_database(database) if database is not None else _from_folders(path)


def _connected(database: Path) -> sqlite3.Connection:
    regular_file(database)
    connection = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _from_database(database: Path) -> Iterator[ScalarRow]:
    query = "SELECT key, step, value, is_nan FROM metrics ORDER BY timestamp"
    try:
        with closing(_connected(database)) as connection:
            runs = connection.execute("SELECT DISTINCT run_uuid FROM metrics LIMIT 2").fetchall()
            _one_run(database, len(runs))
            for key, step, value, is_nan in connection.execute(query):
                yield ScalarRow(str(key), int(step), math.nan if is_nan else float(value))
    except (sqlite3.Error, TypeError, ValueError) as error:
        raise RolloutError(
            f"{printable(database)}: cannot be read as MLflow's store ({printable(error)})."
        ) from error


def _one_run(path: Path, runs: int) -> None:
    if runs > 1:
        raise RolloutError(f"{printable(path)}: more than one run of MLflow; pass the folder of one.")


def _from_folders(path: Path) -> Iterator[ScalarRow]:
    folders = _run_folders(path)
    _one_run(path, len(folders))
    for file in _metric_files(folders[0]):
        name = file.relative_to(folders[0]).as_posix()
        for line in log_lines(file, MAX_LINE):
            if line.number > MAX_LINES:
                raise RolloutError(f"{printable(file)}: more than {MAX_LINES:,} lines.")
            yield _row(file, name, line.content.decode(errors="replace"))


def _metric_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _row(file: Path, name: str, line: str) -> ScalarRow:
    try:
        _, value, step = line.split()[:3]
        return ScalarRow(name, int(step), float(value))
    except ValueError as error:
        raise RolloutError(
            f"{printable(file)}: a line is not 'timestamp value step' ({printable(line[:80].strip())})."
        ) from error
