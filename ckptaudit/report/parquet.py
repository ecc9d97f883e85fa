"""The measurements as a table for pandas, DuckDB, Spark and the like. docs/parquet.md describes the columns."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from ckptaudit.atomic_write import write_bytes
from ckptaudit.judging.rollouts import RUN
from ckptaudit.metrics import METRICS, Measurement
from ckptaudit.report.files import need
from ckptaudit.results.records import SCHEMA, AuditResult
from ckptaudit.rollouts.readings import step_subject

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

    rows = [*result.measurements, *of_rollouts(result)]
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


def of_rollouts(result: AuditResult) -> Iterator[Measurement]:
    """What was measured of each step of rollouts ("step 12"), and of their run ("run")."""
    for log in result.rollouts:
        for curve in log.curves:
            for step, value in zip(log.step_numbers, curve.values, strict=True):
                yield Measurement(step_subject(step), None, "", (), curve.metric, value, "exact", tuned=log.tuned)
        for own in log.over_run:
            yield Measurement(RUN, None, "", (), own.metric, own.value, "exact", tuned=log.tuned)


def _unit(metric: str) -> str:
    known = METRICS.get(metric)
    return known.unit if known else ""
