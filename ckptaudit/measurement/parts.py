"""Part files: what one shard measured, as Parquet. Exact to the bit, sealed, and read strictly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec

from ckptaudit.atomic_write import write_bytes
from ckptaudit.errors import ShardError, printable
from ckptaudit.foreign_files import read_regular
from ckptaudit.measurement.shards import Shard
from ckptaudit.metrics import Measurement

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise ShardError("Shards are written with pyarrow: pip install 'ckptaudit[parquet]'.") from error

SCHEMA = "ckptaudit.part/1"
MAX_PART = 8 * 2**30
ROW_BYTES, FINDINGS_BYTES = 2**16, 2**28
"""More than a measurement takes, its name having a thousand characters at most; and all findings of a part."""

HEAD = b"ckptaudit.part"
SEAL = b"ckptaudit.seal"

TABLE = pa.schema(
    [
        pa.field("task", pa.int32(), nullable=False),
        pa.field("unit", pa.int32(), nullable=False),
        pa.field("record", pa.binary(), nullable=False),  # a Measurement in MessagePack, floats as binary64
        pa.field("tensor", pa.string(), nullable=False),  # from here on for people, and never read back
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
    ]
)
READ = ["task", "unit", "record"]


class PartHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a part is of: the plan's digest, the shard, the version that measured it, and on what."""

    schema: str = SCHEMA
    plan: str
    version: str
    shard: Shard
    rows: int
    device: str
    seconds: float
    versions: dict[str, str] = {}


class PartRow(msgspec.Struct, frozen=True):
    """A measurement, and which unit of which task of the plan it belongs to, both by position."""

    task: int
    unit: int
    measurement: Measurement


def write_part(path: Path, head: PartHead, rows: Sequence[PartRow]) -> None:
    """Write a part, complete or not at all. Raises ShardError."""
    content = BytesIO()
    records = [msgspec.msgpack.encode(row.measurement) for row in rows]
    places = [(row.task, row.unit) for row in rows]
    seal = _seal(head, zip(places, records, strict=True)).encode()
    metadata = {HEAD: msgspec.json.encode(head), SEAL: seal}
    plain = {"compression": "zstd", "use_dictionary": ["tensor", "metric"], "write_page_checksum": True}
    table = pa.table(_columns(rows, records), schema=TABLE.with_metadata(metadata))
    pq.write_table(table, content, row_group_size=65_536, **plain)
    try:
        write_bytes(path, content.getvalue(), durable=True)
    except OSError as error:
        raise ShardError(f"{printable(path)}: cannot be written ({printable(error.strerror or error)}).") from None


def read_part(path: Path, most_rows: int) -> tuple[PartHead, list[PartRow]]:
    """Read a part of at most that many measurements. Raises ShardError saying what is wrong with it."""
    try:
        content = read_regular(path, MAX_PART)
    except OSError as error:
        raise ShardError(f"{printable(path)}: cannot be read ({printable(error.strerror or error)}).") from None
    try:
        with _opened(content) as file:
            return _contents(path, file, most_rows)
    except ShardError:
        raise
    except (pa.ArrowException, msgspec.DecodeError, OSError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from None


def _opened(content: bytes) -> Any:
    limits = {"thrift_string_size_limit": 2**26, "thrift_container_size_limit": 2**22}
    return pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True, **limits)


def _contents(path: Path, file: Any, most_rows: int) -> tuple[PartHead, list[PartRow]]:
    found = file.schema_arrow
    if not found.equals(TABLE):
        raise ValueError("other columns")
    head = msgspec.json.decode((found.metadata or {}).get(HEAD, b""), type=PartHead)
    if head.schema != SCHEMA:
        raise ValueError(f"schema {head.schema[:100]}")
    if not head.rows == file.metadata.num_rows <= most_rows:
        raise ValueError(f"{file.metadata.num_rows:,} rows")
    _check_sizes(file.metadata)
    pairs = list(_pairs(file))
    if _seal(head, pairs) != found.metadata.get(SEAL, b"").decode():
        raise ValueError("not what its digest was taken of")
    decoder = msgspec.msgpack.Decoder(Measurement)
    return head, [PartRow(task, unit, decoder.decode(record)) for (task, unit), record in pairs]


def _check_sizes(facts: Any) -> None:
    """Refuse what would unpack to more than measurements take. Raises ValueError."""
    for index in range(facts.num_row_groups):
        group = facts.row_group(index)
        for chunk in (group.column(place) for place in range(len(READ))):
            room = ROW_BYTES * group.num_rows + FINDINGS_BYTES
            packed = set(chunk.encodings) - {"PLAIN", "RLE"}
            if packed or chunk.total_uncompressed_size > room:
                raise ValueError("columns that are packed otherwise")


def _pairs(file: Any) -> Iterator[tuple[tuple[int, int], bytes]]:
    for batch in file.iter_batches(8192, columns=READ, use_threads=False):
        tasks, units, records = (column.to_pylist() for column in batch.columns)
        yield from zip(zip(tasks, units, strict=True), records, strict=True)


def _columns(rows: Sequence[PartRow], records: Sequence[bytes]) -> Mapping[str, Any]:
    return {
        "task": pa.array([row.task for row in rows], pa.int32()),
        "unit": pa.array([row.unit for row in rows], pa.int32()),
        "record": pa.array(records, pa.binary()),
        "tensor": pa.array([row.measurement.tensor for row in rows], pa.string()),
        "metric": pa.array([row.measurement.metric for row in rows], pa.string()),
        "value": pa.array([row.measurement.value for row in rows], pa.float64()),
    }


def _seal(head: PartHead, pairs: Any) -> str:
    digest = blake2b(msgspec.json.encode(head), digest_size=16)
    for (task, unit), record in pairs:
        digest.update(b"%d %d %d " % (task, unit, len(record)))
        digest.update(record)
    return digest.hexdigest()


def _damaged(path: Path, error: Exception) -> ShardError:
    why = printable(str(error).splitlines()[0][:160]) if str(error) else type(error).__name__
    return ShardError(f"{printable(path)}: cut short, damaged or no part of an audit ({why}); measure it again.")
