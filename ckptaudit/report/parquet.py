"""The measurements as a Parquet file. docs/parquet.md describes the columns."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from ckptaudit.atomic_write import write_bytes
from ckptaudit.results.packages import need
from ckptaudit.results.records import AuditResult
from ckptaudit.results.tables import arrow_table


def write_parquet(result: AuditResult, path: Path) -> None:
    """Write one row for each measurement, whole or not at all. Raises ReportError without pyarrow, OSError."""
    need("pyarrow", extra="parquet")
    import pyarrow.parquet as pq

    content = BytesIO()
    pq.write_table(arrow_table(result), content, compression="zstd")
    write_bytes(path, content.getvalue())
