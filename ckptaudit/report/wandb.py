"""The audit in Weights & Biases: a run for each tuned checkpoint, with a few scalars and the layers as a table."""

from __future__ import annotations

from ckptaudit.errors import ReportError, printable
from ckptaudit.report.tracked import tracked_runs
from ckptaudit.results.packages import need
from ckptaudit.results.records import AuditResult

PROJECT = "ckptaudit"

AXIS = "rollouts/step"


def log_to_wandb(result: AuditResult, project: str = PROJECT) -> None:
    """Log to a project, online or as WANDB_MODE says; WANDB_DIR is where local files go.

    Raises ReportError without the package, and for what wandb refuses.
    """
    need("wandb", extra="wandb")
    import wandb

    # Nothing is sent but the audit: neither the terminal nor the machine nor the code.
    settings = wandb.Settings(
        silent=True,
        console="off",
        x_disable_stats=True,
        x_disable_machine_info=True,
        disable_git=True,
        save_code=False,
    )
    try:
        for run in tracked_runs(result):
            tables = {
                name: wandb.Table(columns=list(table.columns), data=[list(row) for row in table.rows])
                for name, table in (("verdicts", run.verdicts), ("layers", run.layers))
            }
            made = wandb.init(
                project=project,
                name=run.name,
                job_type="audit",
                config=run.tags,
                reinit="create_new",
                settings=settings,
            )
            made.log({**run.scalars, **tables}, step=run.step)
            if run.curves:
                # An axis of their own: wandb's steps only grow, and that of the audit was the run's last.
                made.define_metric(AXIS)
                made.define_metric("rollouts/*", step_metric=AXIS)
            for step, values in run.by_step():
                made.log({AXIS: step, **values})
            made.summary.update(run.scalars)
            made.finish()
    except (wandb.Error, OSError) as error:
        raise ReportError(f"wandb cannot log to {printable(project)} ({printable(error)}).") from None
