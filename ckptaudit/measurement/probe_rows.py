"""Rows of probes as a Parquet file, some thousand texts at a time. docs/probe-rows.md describes the columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from ckptaudit.atomic_write import replacing
from ckptaudit.behavior.evidence import Side
from ckptaudit.behavior.row_table import TextRows
from ckptaudit.errors import ReportError, parameter, printable

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = "probe-rows/1"

TEXTS = 4096
"""Texts of one row group, all that is held of the table at once."""

BY_TEXT = (
    "probe",
    "set",
    "text",
    "model",
    "checkpoint",
    "weights",
    "tokenizer",
    "template",
    "probe_digest",
    "setting",
)
PAIRED = ("kl_tuned_base", "kl_base_tuned", "total_variation", "base_rank", "agree")


@dataclass(frozen=True)
class Origin:
    """Where rows come from: by side the checkpoint and three digests, then the digest of the setting."""

    checkpoints: dict[Side, str]
    weights: dict[Side, str]
    tokenizers: dict[Side, str]
    templates: dict[Side, str]
    setting: str


def digest_of(content: object) -> str:
    """A digest of what JSON can say; empty of nothing."""
    return "" if content is None else blake2b(msgspec.json.encode(content), digest_size=16).hexdigest()


def write_rows(path: Path, texts: Iterable[TextRows], origin: Origin) -> int:
    """Write one row for each token, whole or not at all; returns how many. Raises ReportError."""
    import pyarrow.parquet as pq

    written = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            replacing(path) as file,
            pq.ParquetWriter(file, _schema(), compression="zstd") as writer,
        ):
            for block in _blocks(texts):
                table = _table(block, origin)
                writer.write_table(table)
                written += table.num_rows
    except OSError as error:
        why = printable(error.strerror or error)
        raise ReportError(f"{parameter('probe_rows')} {printable(path)}: cannot be written ({why}).") from error
    return written


def _blocks(texts: Iterable[TextRows]) -> Iterator[list[TextRows]]:
    waiting = iter(texts)
    while block := list(islice(waiting, TEXTS)):
        yield block


def _schema() -> pa.Schema:
    import pyarrow as pa

    word = pa.dictionary(pa.int32(), pa.string())
    number = pa.float64()
    types = {
        **dict.fromkeys(BY_TEXT, word),
        "position": pa.int32(),
        "token": pa.int32(),
        "log_p": number,
        "rank": pa.int32(),
        "entropy": number,
        **dict.fromkeys(PAIRED[:3], number),
        "base_rank": pa.int32(),
        "agree": pa.bool_(),
    }
    fields = [pa.field(name, kind, nullable=name in PAIRED) for name, kind in types.items()]
    return pa.schema(fields, metadata={"ckptaudit.schema": SCHEMA})


def _table(block: list[TextRows], origin: Origin) -> pa.Table:
    import pyarrow as pa

    schema = _schema()
    lengths = [len(text.ids) for text in block]
    words = [_words(text, origin) for text in block]
    columns: dict[str, Any] = {name: _repeated([one[name] for one in words], lengths) for name in BY_TEXT}
    columns |= {
        "position": np.concatenate([np.arange(length) for length in lengths]),
        "token": np.concatenate([np.asarray(text.ids) for text in block]),
        **{name: np.concatenate([getattr(t.scores, name) for t in block]) for name in ("log_p", "rank", "entropy")},
        **{name: _paired(block, name) for name in PAIRED},
    }
    arrays = [_array(columns[field.name], field) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(column: Any, field: pa.Field) -> pa.Array:
    import pyarrow as pa

    if isinstance(column, pa.Array):
        return column
    return pa.array(column, from_pandas=field.nullable).cast(field.type)


def _words(text: TextRows, origin: Origin) -> dict[str, str]:
    return {
        "probe": text.item.probe.id,
        "set": text.item.set,
        "text": text.text,
        "model": text.side,
        "checkpoint": origin.checkpoints[text.side],
        "weights": origin.weights[text.side],
        "tokenizer": origin.tokenizers[text.side],
        "template": origin.templates[text.side],
        "probe_digest": text.item.probe.digest,
        "setting": origin.setting,
    }


def _repeated(words: list[str], lengths: list[int]) -> pa.DictionaryArray:
    import pyarrow as pa

    known = {word: index for index, word in enumerate(dict.fromkeys(words))}
    indices = np.repeat(np.asarray([known[word] for word in words], dtype=np.int32), lengths)
    return pa.DictionaryArray.from_arrays(pa.array(indices), pa.array(known, pa.string()))


def _paired(block: list[TextRows], name: str) -> Any:
    """A column of the comparison, NaN where there is none."""
    return np.concatenate(
        [
            np.full(len(text.ids), np.nan) if text.compared is None else getattr(text.compared, name).astype(float)
            for text in block
        ]
    )
