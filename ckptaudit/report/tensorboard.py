"""The audit in TensorBoard: a run for each tuned checkpoint, with a few scalars and the layers as a table."""

from __future__ import annotations

from pathlib import Path

from ckptaudit.report.appearance import number
from ckptaudit.report.markdown import escaped, markdown
from ckptaudit.report.tracked import Table, tracked_runs
from ckptaudit.results.packages import need
from ckptaudit.results.records import AuditResult

ROWS_SHOWN = 2000
"""Rows of the table of layers that a browser shows well."""


def log_to_tensorboard(result: AuditResult, folder: Path) -> None:
    """Write event files under `folder`. Raises ReportError without the tensorboard package, OSError."""
    need("tensorboard", extra="tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    page = markdown(result)
    for run in tracked_runs(result):
        with SummaryWriter(str(folder / run.name)) as writer:
            for name, value in run.scalars.items():
                writer.add_scalar(name, value, run.step)
            for name, points in run.curves.items():
                for step, value in points:
                    writer.add_scalar(name, value, step)
            writer.add_text("audit", page, run.step)
            writer.add_text("layers", _table(run.layers), run.step)


def _table(table: Table) -> str:
    lines = [table.columns, ["---"] * len(table.columns), *table.rows[:ROWS_SHOWN]]
    text = "\n".join(f"| {' | '.join(map(_cell, cells))} |" for cells in lines)
    more = len(table.rows) - ROWS_SHOWN
    return f"{text}\n\nand {more} more rows; the JSON has all\n" if more > 0 else text


def _cell(value: object) -> str:
    return number(value) if isinstance(value, float) else "" if value is None else escaped(value)
