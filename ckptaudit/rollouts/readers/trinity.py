"""Trinity-RFT: its buffer in SQLite, or experiences as JSON lines.

The table has prompt, response, reward, model_version and the experience as a pickle, which is read as data: token
ids, the engine's log-probabilities, advantages, and who it is (batch, task, run). The trainer's log-probabilities
are not in it. Rows come in the order of batches.
"""

from __future__ import annotations

import io
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ckptaudit.errors import RolloutError, printable
from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.files import regular_file
from ckptaudit.rollouts.lines import first_line_of, json_lines, json_lines_in_order
from ckptaudit.rollouts.pickled import pickle_contents
from ckptaudit.rollouts.rows import ALWAYS, Row, batches_of, constant, prompt_hash, whole_ids

NAME = "trinity-rft"
FILES = "*.db with experience_bytes, or *.jsonl with eid"
COLUMNS = frozenset(
    ALWAYS
    | {"group_id", "version_first", "version_last", "logp_semantics"}
    | {"prompt_len", "response_len", "reward", "advantage", "prompt", "response", "token_ids", "loss_mask"}
    | {"logp_rollout", "advantages"}
)
MISSING = {
    "logp_train": "Trinity-RFT's buffer has the engine's log-probabilities alone",
    "entropy": "Trinity-RFT's buffer has none",
    "version_train": "Trinity-RFT's buffer does not say at which version an experience was learnt from",
    "truncated": "declare max_response_length in [rollouts]",
}
CLASSES = frozenset({"trinity.common.experience.Experience", "trinity.common.experience.EID"})
MAX_SAMPLE = 256 * 2**20


def _databases(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder] if folder.suffix in (".db", ".sqlite", ".sqlite3") else []
    return sorted(path for path in folder.glob("*.db") if path.is_file())


def _line_files(folder: Path) -> list[Path]:
    files = [folder] if folder.is_file() else sorted(folder.glob("*.jsonl"))
    return [path for path in files if path.suffix == ".jsonl" and path.is_file()]


def recognises(folder: Path) -> bool:
    """Whether there is a database with a table of experiences, or a file whose first line has an eid."""
    databases = _databases(folder)
    if databases:
        try:
            return _table(databases[0]) is not None
        except RolloutError:
            return False
    files = _line_files(folder)
    line = first_line_of(files)
    return line is not None and "eid" in line and "prompt_length" in line


def files(folder: Path) -> list[Path]:
    """The files that are read, in order."""
    return _databases(folder) or _line_files(folder)


def open(folder: Path, facts: RunFacts) -> Iterator[pa.RecordBatch]:
    """Database by database, or file by file."""
    for path in _databases(folder):
        yield from batches_of(_database_rows(path), path, folder.name)
    if not _databases(folder):
        for path in _line_files(folder):
            yield from batches_of(_line_rows(path), path, folder.name)


def _connected(path: Path) -> sqlite3.Connection:
    regular_file(path)
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_SAMPLE)
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _table(path: Path) -> str | None:
    """The name of the first table that holds experiences."""
    try:
        with closing(_connected(path)) as connection:
            names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchmany(1000)
            for (name,) in names:
                if re.fullmatch(r"[A-Za-z0-9_\-]{1,200}", name):
                    columns = {row[1] for row in connection.execute(f'PRAGMA table_info("{name}")').fetchmany(1000)}
                    if "experience_bytes" in columns:
                        return str(name)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise RolloutError(f"{printable(path)}: cannot be read as SQLite ({printable(error)}).") from error
    return None


def _database_rows(path: Path) -> Iterator[Row]:
    name = _table(path)
    if name is None:
        raise RolloutError(f"{printable(path)}: no table with a column experience_bytes, as Trinity-RFT makes.")
    try:
        with closing(_connected(path)) as connection:
            # Explorers write side by side, so ids need not be in the order of batches.
            order = sorted((row["step"], number) for number, row in _experiences(connection, name, path))
            for _, number in order:
                yield from (row for _, row in _experiences(connection, name, path, number))
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise RolloutError(f"{printable(path)}: cannot be read as SQLite ({printable(error)}).") from error


def _experiences(
    connection: sqlite3.Connection, table: str, path: Path, only: int | None = None
) -> Iterator[tuple[int, Row]]:
    """The table's rows, or the one of an id."""
    query = f'SELECT id, reward, model_version, experience_bytes FROM "{table}"'
    found = connection.execute(query) if only is None else connection.execute(f"{query} WHERE id = ?", (only,))
    for number, reward, version, data in found:
        if not isinstance(data, bytes) or not isinstance(number, int):
            raise RolloutError(f"{printable(path)}: row {printable(number)} has no id or no experience_bytes.")
        experience = pickle_contents(io.BytesIO(data), path, CLASSES)
        yield number, _guarded(path, number, experience, reward, version)


def _line_rows(path: Path) -> Iterator[Row]:
    order = []
    for number, line in enumerate(json_lines(path, dict[str, Any])):
        order.append((_guarded(path, number, line, None, None)["step"], number))
    if order == sorted(order):
        lines = json_lines(path, dict[str, Any])
    else:
        lines = json_lines_in_order(path, dict[str, Any], [number for _, number in sorted(order)])
    for number, line in enumerate(lines):
        yield _guarded(path, number, line, None, None)


def _guarded(path: Path, number: Any, experience: Any, reward: Any, version: Any) -> Row:
    try:
        return _row(experience, reward, version)
    except (TypeError, ValueError, KeyError, IndexError, OverflowError, AttributeError) as error:
        raise RolloutError(
            f"{printable(path)}: experience {printable(number)} is not laid out as Trinity-RFT writes it "
            f"({printable(str(error)[:120])})."
        ) from error


def _row(experience: dict[str, Any], reward: Any, version: Any) -> Row:
    who = experience["eid"]
    batch, task, run, step = (who[name] for name in ("batch", "task", "run", "step"))
    ids = np.asarray(experience["tokens"], dtype=np.int64)
    prompt = int(experience["prompt_length"])
    given, advantages = experience.get("action_mask"), _list(experience.get("advantages"))
    mask = np.ones(len(ids) - prompt, dtype=bool) if given is None else np.asarray(given).astype(bool)
    version = version if version is not None else (experience.get("info") or {}).get("model_version")
    found = experience.get("reward") if reward is None else reward
    return {
        "step": int(batch),
        "sample_id": f"{batch}/{task}/{run}/{step}",
        "group_id": f"{batch}/{task}",
        "version_first": None if version is None else int(version),
        "version_last": None if version is None else int(version),
        "prompt_hash": prompt_hash(ids[:prompt]),
        "prompt_len": prompt,
        "response_len": len(ids) - prompt,
        "reward": None if found is None else float(found),
        "advantage": constant(advantages, mask),
        "prompt": _text(experience.get("prompt_text")),
        "response": _text(experience.get("response_text")),
        "token_ids": whole_ids(ids[prompt:]),
        "loss_mask": mask,
        "logp_rollout": _list(experience.get("logprobs")),
        "advantages": advantages,
        "logp_semantics": "unknown",
    }


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _list(values: Any) -> np.ndarray | None:
    return None if values is None else np.asarray(values, dtype=np.float64).reshape(-1)
