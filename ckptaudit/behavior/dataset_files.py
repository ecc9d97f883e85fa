"""The rows of a data set: a Parquet file, or JSON lines."""

from __future__ import annotations

from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import msgspec

from ckptaudit.errors import ProbeError, parameter, printable
from ckptaudit.foreign_files import open_regular
from ckptaudit.foreign_files.lines import LongLineError, lines_of

MAX_LINE = 16 * 2**20
"""Bytes of a line of JSON."""

MAX_ROWS = 2**22
BATCH = 64
"""Rows of Parquet taken at a time: a text that many rows share is stored once, and stands in memory for each."""

Row = dict[str, Any]


def dataset_rows(path: Path, wanted: Container[str], option: str = "from_dataset") -> Iterator[tuple[int, Row]]:
    """Every row with its number, from 1; Parquet columns that are not wanted hold None.

    `option` is the parameter that names the file. Raises ProbeError naming file and row.
    """
    where = f"{parameter(option)} {printable(path)}"
    rows = _parquet(path, wanted, where) if path.suffix == ".parquet" else _json_lines(path, where)
    for number, row in rows:
        if number > MAX_ROWS:
            raise ProbeError(f"{where}: more than the {MAX_ROWS:,} rows that are read.")
        yield number, row


def _json_lines(path: Path, where: str) -> Iterator[tuple[int, Row]]:
    decoder = msgspec.json.Decoder(Row)
    number = 0
    try:
        for number, _, content in lines_of(path, MAX_LINE):
            yield number, decoder.decode(content)
    except LongLineError as error:
        raise ProbeError(f"{where}, line {error.number}: {error}.") from None
    except OSError as error:
        raise ProbeError(f"{where}: {printable(error.strerror or 'cannot be read')}.") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProbeError(f"{where}, line {number}: no JSON object ({printable(error)[:160]}).") from error


def _parquet(path: Path, wanted: Container[str], where: str) -> Iterator[tuple[int, Row]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise ProbeError(
            f"{where}: Parquet needs pyarrow; install it with pip install 'ckptaudit[parquet]'."
        ) from None
    number = 0
    try:
        with open_regular(path) as file:
            table = ParquetFile(file, thrift_string_size_limit=2**26, thrift_container_size_limit=2**22)
            names = table.schema_arrow.names
            unread = dict.fromkeys(name for name in names if name not in wanted)
            for batch in table.iter_batches(BATCH, columns=[name for name in names if name in wanted]):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row | unread
    except OSError as error:
        raise ProbeError(f"{where}: {printable(error.strerror or error)[:160]}.") from error
    except (ArrowException, ValueError, TypeError, OverflowError) as error:
        raise ProbeError(f"{where}: no Parquet file that can be read ({printable(error)[:160]}).") from error
