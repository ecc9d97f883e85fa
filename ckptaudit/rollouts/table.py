"""The canonical table of rollouts: one row a sample, in the order of steps, stored as Parquet.

Units: log-probabilities and entropies in nats, lengths in tokens. Entry t of a list belongs to token t of the
response. A null list is a quantity that was not logged; a null entry is a position without a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from ckptaudit.atomic_write import replacing
from ckptaudit.errors import RolloutError, printable
from ckptaudit.rollouts.files import regular_files

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise RolloutError("Rollouts are read with pyarrow: pip install 'ckptaudit[rollouts]'.") from error

from ckptaudit.rollouts.values import fitted, refuse_types

VERSION = "ckptaudit.rollouts/1"
_WORD = pa.dictionary(pa.int32(), pa.string())
_NUMBERS = pa.list_(pa.float32())

SCHEMA = pa.schema(
    [
        pa.field("run", _WORD, nullable=False),
        pa.field("source_file", _WORD, nullable=False),
        pa.field("step", pa.int64(), nullable=False),  # the trainer's step whose update used the sample
        pa.field("split", _WORD, nullable=False),  # train or eval
        pa.field("group_id", pa.string()),  # unique within run and step
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("version_first", pa.int64()),  # of the weights that sampled the first token
        pa.field("version_last", pa.int64()),
        pa.field("version_train", pa.int64()),  # of the weights at the update
        pa.field("prompt_hash", pa.binary(16), nullable=False),
        pa.field("prompt_len", pa.int32()),
        pa.field("response_len", pa.int32()),
        pa.field("truncated", pa.bool_()),
        pa.field("stop_reason", _WORD),
        pa.field("reward", pa.float64()),  # as it entered the advantage
        pa.field("rewards", pa.map_(pa.string(), pa.float64())),  # by component
        pa.field("advantage", pa.float64()),  # null where it varies by token
        pa.field("prompt", pa.large_string()),
        pa.field("response", pa.large_string()),
        pa.field("token_ids", pa.list_(pa.int32())),
        pa.field("loss_mask", pa.list_(pa.bool_())),
        pa.field("logp_rollout", _NUMBERS),  # by the engine that sampled
        pa.field("logp_train", _NUMBERS),  # by the trainer at the weights that sampled
        pa.field("logp_ref", _NUMBERS),
        pa.field("logp_new", _NUMBERS),  # by the policy while it is updated
        pa.field("advantages", _NUMBERS),
        pa.field("entropy", _NUMBERS),  # of the trainer's distribution at the position
        pa.field("logp_semantics", _WORD),  # raw, temperature-scaled, truncated-renormalised or unknown
        pa.field("parent_id", pa.string()),  # tree rollouts: the node that the sample branches from
        pa.field("prefix_len", pa.int32()),  # and how many response tokens it shares with its siblings
    ],
    metadata={"ckptaudit.schema": VERSION},
)
SMALL = tuple(field.name for field in SCHEMA if pa.types.is_primitive(field.type))
"""Columns of one number a row: what can be looked at of a log's beginning at no cost."""
REQUIRED = tuple(field.name for field in SCHEMA if not field.nullable)
TOKEN_LISTS = tuple(field.name for field in SCHEMA if pa.types.is_list(field.type))

UNREADABLE = (OSError, pa.ArrowException, UnicodeDecodeError)
"""What pyarrow raises for a damaged Parquet file; the last for a column's name."""

ROW_GROUP_BYTES = 32 * 2**20
BATCH_BYTES = 8 * 2**20
MAX_BATCH_ROWS = 8192


class RolloutWriter:
    """Gathers record batches into row groups of bounded size.

    Raises RolloutError where steps go backwards: later stages rest on rows in the order of steps.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        floats = [f"{name}.list.element" for name in TOKEN_LISTS if SCHEMA.field(name).type == _NUMBERS]
        self._file = pq.ParquetWriter(
            file, SCHEMA, compression="zstd", use_dictionary=_DICTIONARIES, use_byte_stream_split=floats
        )
        self._pending: list[pa.RecordBatch] = []
        self._bytes = 0
        self._order = StepOrder(name)
        self.rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows of the canonical table; a column that they lack becomes null."""
        batch = complete(batch)
        self._order.check(batch)
        self._pending.append(batch)
        self._bytes += batch.nbytes
        self.rows += batch.num_rows
        if self._bytes > ROW_GROUP_BYTES:
            self._flush()

    def __enter__(self) -> RolloutWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        self._file.close()

    def _flush(self) -> None:
        if self._pending:
            self._file.write_table(pa.Table.from_batches(self._pending, SCHEMA).unify_dictionaries())
        self._pending, self._bytes = [], 0


_DICTIONARIES = ["run", "source_file", "split", "stop_reason", "logp_semantics", "group_id"] + [
    f"{name}.list.element" for name in ("token_ids",)
]


def complete(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with all columns of the table, in their order. Raises RolloutError if one has another type."""
    there = set(batch.schema.names)
    try:
        columns = [
            batch.column(field.name) if field.name in there else pa.nulls(batch.num_rows, field.type)
            for field in SCHEMA
        ]
        return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
    except pa.ArrowException as error:
        raise RolloutError(f"Rows that are not of the canonical table ({_first_line(error)}).") from error


class StepOrder:
    """Refuses a table whose steps go backwards within one run and split."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last: dict[tuple[str, str], int] = {}

    def check(self, batch: pa.RecordBatch) -> None:
        """Compare the batch's steps with each other and with those before."""
        for key, rows in _by_run(batch):
            steps = rows.column("step").to_numpy()
            before = self._last.get(key, steps[0])
            if steps[0] < before or (steps[1:] < steps[:-1]).any():
                raise RolloutError(
                    f"{printable(self._name)}: steps of run {printable(key[0])} ({printable(key[1])}) go "
                    "backwards; the rows must be sorted by step."
                )
            self._last[key] = int(steps[-1])


def _by_run(batch: pa.RecordBatch) -> Iterator[tuple[tuple[str, str], pa.RecordBatch]]:
    import pyarrow.compute as pc

    runs, splits = batch.column("run"), batch.column("split")
    keys = {(run, split) for run in pc.unique(runs).to_pylist() for split in pc.unique(splits).to_pylist()}
    for run, split in sorted(keys):
        rows = batch if len(keys) == 1 else batch.filter(pc.and_(pc.equal(runs, run), pc.equal(splits, split)))
        if rows.num_rows:
            yield (run, split), rows


def is_canonical(path: Path) -> bool:
    """Whether a Parquet file says that it holds this table."""
    try:
        return (pq.read_schema(path).metadata or {}).get(b"ckptaudit.schema") == VERSION.encode()
    except UNREADABLE:
        return False


def write_table(path: Path, batches: Iterable[pa.RecordBatch]) -> int:
    """Write all batches to one file, which appears when it is complete; returns the number of rows.

    Raises RolloutError for rows that are not of the table, or where the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file, RolloutWriter(file, path.name) as writer:
            for batch in batches:
                writer.write(batch)
    except OSError as error:
        raise RolloutError(
            f"{printable(path)}: cannot be written ({printable(error.strerror or error)})."
        ) from error
    return writer.rows


def read_table(files: Sequence[Path], columns: Iterable[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Batches of at most some 8 MiB, file by file; a column that a file lacks is missing from its batches.

    Raises RolloutError for a file that is no such table.
    """
    asked = set(SCHEMA.names) if columns is None else {*REQUIRED, *columns}
    wanted = [name for name in SCHEMA.names if name in asked]
    for path in regular_files(files):
        yield from _read_file(path, wanted)


def filled_columns(files: Sequence[Path]) -> frozenset[str]:
    """Columns with a value in any row, by the files' own counts of nulls. Raises RolloutError."""
    filled: set[str] = set()
    for path in regular_files(files):
        try:
            facts = pq.read_metadata(path)
            refuse_types(path, facts.schema.to_arrow_schema(), SCHEMA)
            filled.update(_filled(facts))
        except UNREADABLE as error:
            raise RolloutError(f"{printable(path)}: cannot be read as Parquet ({_first_line(error)}).") from error
    return frozenset(filled & set(SCHEMA.names))


def _filled(facts: pq.FileMetaData) -> Iterator[str]:
    for index in range(facts.num_row_groups):
        group = facts.row_group(index)
        chunks = (group.column(place) for place in range(group.num_columns))
        yield from (chunk.path_in_schema.split(".")[0] for chunk in chunks if _has_values(chunk))


def _has_values(chunk: pq.ColumnChunkMetaData) -> bool:
    counts = chunk.statistics
    if counts is None or not counts.has_null_count:
        return bool(chunk.num_values)
    return bool(counts.null_count < chunk.num_values)


def _read_file(path: Path, wanted: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path, thrift_string_size_limit=2**26, thrift_container_size_limit=2**22) as file:
            names = _checked_columns(path, file.schema_arrow, wanted)
            rows, before = _rows_at_a_time(file.metadata, names), 0
            for batch in file.iter_batches(rows, columns=names, use_threads=True):
                yield fitted(path, batch, SCHEMA, before)
                before += batch.num_rows
    except UNREADABLE as error:
        raise RolloutError(f"{printable(path)}: cannot be read as Parquet ({_first_line(error)}).") from error


def _checked_columns(path: Path, schema: pa.Schema, wanted: list[str]) -> list[str]:
    lacking = [name for name in REQUIRED if name not in schema.names]
    if lacking:
        raise RolloutError(
            f"{printable(path)}: no table of rollouts, as column {lacking[0]} is missing; "
            "make one with `ckptaudit rollouts convert`."
        )
    refuse_types(path, schema, SCHEMA)
    return [name for name in wanted if name in schema.names]


def _rows_at_a_time(facts: pq.FileMetaData, names: list[str]) -> int:
    # A row's size is taken from the fullest row group, so that one of long answers does not outgrow the budget.
    heaviest = 1.0
    for index in range(facts.num_row_groups):
        group = facts.row_group(index)
        if group.num_rows:
            heaviest = max(heaviest, _group_bytes(group, names) / group.num_rows)
    return int(max(1, min(MAX_BATCH_ROWS, BATCH_BYTES / heaviest)))


def _group_bytes(group: pq.RowGroupMetaData, names: list[str]) -> int:
    columns = (group.column(index) for index in range(group.num_columns))
    # Four bytes a value: what dictionary encoding hides of a list's size.
    return sum(
        max(c.total_uncompressed_size, 4 * c.num_values) for c in columns if c.path_in_schema.split(".")[0] in names
    )


def _first_line(error: Exception) -> str:
    return printable(str(error).splitlines()[0][:160]) if str(error) else type(error).__name__
