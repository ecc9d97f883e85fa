"""The result as tables for pandas, Polars, DuckDB, Spark and the like. docs/parquet.md describes the columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ckptaudit.errors import ReportError, printable
from ckptaudit.metrics.descriptions import description_of
from ckptaudit.results.packages import need
from ckptaudit.results.records import AuditResult, TableName
from ckptaudit.results.rollouts import measurements_of

MEASUREMENTS = ("base", "tuned", "tensor", "layer", "role", "shape", "metric", "unit", "value", "kind")
VERDICTS = (
    "tuned",
    "check",
    "subject",
    "outcome",
    "severity",
    "metric",
    "value",
    "kind",
    "sign",
    "limit",
    "worst",
    "reason",
    "test",
)
NUMBERS = ("value", "limit")


def arrow_table(result: AuditResult, table: TableName = "measurements") -> Any:
    """One row for each measurement, or for each verdict. Raises ReportError without pyarrow."""
    need("pyarrow", extra="parquet")
    makers = {"measurements": _measurements, "verdicts": _verdicts}
    if table not in makers:
        raise ReportError(f"{printable(table)}: no such table; measurements and verdicts are there.")
    return makers[table](result)


def pandas_table(result: AuditResult, table: TableName = "measurements") -> Any:
    """The same as a pandas DataFrame. Raises ReportError without pandas or pyarrow."""
    need("pandas", extra="pandas")
    return arrow_table(result, table).to_pandas()


def polars_table(result: AuditResult, table: TableName = "measurements") -> Any:
    """The same as a Polars DataFrame. Raises ReportError without polars or pyarrow."""
    need("polars", extra="polars")
    import polars

    return polars.from_arrow(arrow_table(result, table))


def _measurements(result: AuditResult) -> Any:
    import pyarrow as pa

    rows = [*result.measurements, *measurements_of(result.rollouts)]
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
    return _table(columns, MEASUREMENTS, nullable=("layer", "value"), schema=result.schema)


def _verdicts(result: AuditResult) -> Any:
    import pyarrow as pa

    word = pa.dictionary(pa.int32(), pa.string())
    columns = {
        name: pa.array([getattr(v, name) for v in result.verdicts], pa.float64() if name in NUMBERS else word)
        for name in VERDICTS
    }
    return _table(columns, VERDICTS, nullable=("value", "kind", "worst"), schema=result.schema)


def _table(columns: dict[str, Any], names: Sequence[str], *, nullable: Sequence[str], schema: str) -> Any:
    import pyarrow as pa

    fields = [pa.field(name, columns[name].type, nullable=name in nullable) for name in names]
    return pa.table(columns, schema=pa.schema(fields, metadata={"ckptaudit.schema": schema}))


def _unit(metric: str) -> str:
    known = description_of(metric)
    return known.unit if known else ""
