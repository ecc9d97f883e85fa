"""The audit in Trackio: a run for each tuned checkpoint, with a few scalars and the layers as a table."""

from __future__ import annotations

from ckptaudit.errors import ReportError, printable
from ckptaudit.report.tracked import tracked_runs
from ckptaudit.results.packages import need
from ckptaudit.results.records import AuditResult

PROJECT = "ckptaudit"


def log_to_trackio(result: AuditResult, project: str = PROJECT) -> None:
    """Log to a project in the local store, which TRACKIO_DIR may name.

    Raises ReportError without the package, and for what Trackio refuses.
    """
    need("trackio", extra="trackio")
    import trackio

    try:
        for run in tracked_runs(result):
            # Of the machine nothing is logged: it is no part of an audit.
            made = trackio.init(
                project=project,
                name=run.name,
                config=dict(run.tags),
                embed=False,
                resume="allow",
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
            tables = {
                name: trackio.Table(columns=list(table.columns), data=[list(row) for row in table.rows])
                for name, table in (("verdicts", run.verdicts), ("layers", run.layers))
            }
            made.log({**run.scalars, **tables}, step=run.step)
            for step, values in run.by_step():
                made.log(values, step=step)
            made.finish()  # type: ignore[no-untyped-call]
    except (ValueError, RuntimeError, OSError) as error:
        raise ReportError(f"Trackio cannot log to {printable(project)} ({printable(error)}).") from None
