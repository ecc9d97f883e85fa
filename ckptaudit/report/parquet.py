"""The measurements as a table for pandas, DuckDB, Spark and the like. docs/parquet.md describes the columns."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

from ckptaudit.atomic_write import write_bytes
from ckptaudit.metrics import METRICS
from ckptaudit.report.files import need
from ckptaudit.results.records import SCHEMA, AuditResult

COLUMNS = ("base", "tuned", "tensor", "layer", "role", "shape", "metric", "unit", "value", "kind")


def write_parquet(result: AuditResult, path: Path) -> None:
    """Write one row for each measurement, whole or not at all. Raises ReportError without pyarrow, OSError."""
    need("pyarrow", extra="parquet")
    import pyarrow.parquet as pq

    content = BytesIO()
    pq.write_table(_table(result), content, compression="zstd")
    write_bytes(path, content.getvalue())


def _table(result: AuditResult) -> Any:
    import pyarrow as pa

    rows = result.measurements
    word = pa.dictionary(pa.int32(), pa.string())
    columns = {
        "base": pa.array([result.base] * len(rows), word),
        "tuned": pa.array([r.tuned for r in rows], word),
        "tensor": pa.array([r.tensor for r in rows], word),
        "layer": pa.array([r.layer for r in rows], pa.int32()),
        "role": pa.array([r.role for r in rows], word),
        "shape": pa.array([r.shape for r in rows], pa.list_(pa.int64())),
        "metric": pa.array([r.metric for r in rows], word),
        "unit": pa.array([_unit(r.metric) for r in rows], word),
        "value": pa.array([r.value for r in rows], pa.float64()),
        "kind": pa.array([r.kind for r in rows], word),
    }
    fields = [pa.field(name, columns[name].type, nullable=name in ("layer", "value")) for name in COLUMNS]
    return pa.table(columns, schema=pa.schema(fields, metadata={"ckptaudit.schema": SCHEMA}))


def _unit(metric: str) -> str:
    known = METRICS.get(metric)
    return known.unit if known else ""
