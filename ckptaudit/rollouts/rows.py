"""Rows of a log, gathered into record batches of the canonical table."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ckptaudit.errors import RolloutError, printable
from ckptaudit.rollouts.table import SCHEMA, TOKEN_LISTS
from ckptaudit.rollouts.values import first_misfit, refuse_values

Row = Mapping[str, Any]

ALWAYS = frozenset(field.name for field in SCHEMA if not field.nullable)
"""Columns that every row of a log has, whoever wrote it."""

MAX_ROWS = 4096
MAX_CELLS = 2_000_000  # list entries and characters of a batch


def prompt_hash(prompt: str | Sequence[int] | np.ndarray) -> bytes:
    """Sixteen bytes that tell prompts apart: of the token ids where they are known, else of the text."""
    data = prompt.encode() if isinstance(prompt, str) else np.asarray(prompt, dtype="<i8").tobytes()
    return hashlib.blake2b(data, digest_size=16).digest()


def batches_of(rows: Iterable[Row], source: Path, run: str) -> Iterator[pa.RecordBatch]:
    """Record batches of bounded size out of rows; a key that a row lacks is null, except run and source.

    Raises RolloutError naming the file and column where a value does not fit.
    """
    pending: list[Row] = []
    cells = before = 0
    for row in rows:
        pending.append(row)
        cells += sum(len(row[name]) for name in (*TOKEN_LISTS, "response") if row.get(name) is not None)
        if len(pending) >= MAX_ROWS or cells >= MAX_CELLS:
            yield batch_of(pending, source, run, before)
            before += len(pending)
            pending, cells = [], 0
    if pending:
        yield batch_of(pending, source, run, before)


def batch_of(rows: Sequence[Row], source: Path, run: str, before: int = 0) -> pa.RecordBatch:
    """One record batch of all the rows; `before` are the file's rows ahead of them."""
    fixed = {"run": run, "source_file": source.name, "split": "train"}
    columns = []
    for field in SCHEMA:
        values = [row.get(field.name, fixed.get(field.name)) for row in rows]
        try:
            columns.append(pa.array(values, type=field.type))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise RolloutError(
                f"{printable(source)}: {field.name} does not fit its type {field.type} in row "
                f"{before + first_misfit(values, field.type) + 1}; the file is damaged or of another version."
            ) from error
        if columns[-1].null_count and not field.nullable:
            row = before + values.index(None) + 1
            raise RolloutError(
                f"{printable(source)}: the sample in row {row} has no {field.name}; the file is of another version."
            )
    made = pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
    refuse_values(source, made, before)
    return made


def whole_ids(values: np.ndarray) -> np.ndarray:
    """Token ids as int32. Raises ValueError for what is no whole number of 32 bits, which a cast would wrap."""
    ids = np.asarray(values)
    if ids.size and not (ids.min() >= -(2**31) and ids.max() < 2**31 and (ids == np.trunc(ids)).all()):
        raise ValueError("token ids that are no whole numbers of 32 bits")
    return ids.astype(np.int32)


def constant(values: np.ndarray | Sequence[float] | None, mask: np.ndarray | None = None) -> float | None:
    """The one value that an advantage has at all tokens that count; None if it varies or there is no token.

    A number that is not finite speaks for all of them: it must not hide behind others.
    """
    if values is None:
        return None
    array = np.asarray(values, dtype=np.float64)
    array = array if mask is None or len(mask) != len(array) else array[mask]
    unfit = array[~np.isfinite(array)]
    if len(unfit):
        return float(unfit[0])
    if not len(array) or np.ptp(array) > 1e-6 * max(1.0, float(np.abs(array).max())):
        return None
    return float(array[0])
