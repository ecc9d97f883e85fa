"""The audit in TensorBoard: one run for each tuned checkpoint, layers along the step axis."""

from __future__ import annotations

from pathlib import Path

from ckptaudit.report.files import need
from ckptaudit.report.markdown import markdown
from ckptaudit.report.series import metric_series, run_names, verdict_series
from ckptaudit.results.records import AuditResult


def log_to_tensorboard(result: AuditResult, folder: Path) -> None:
    """Write event files under `folder`. Raises ReportError without the tensorboard package, OSError."""
    need("tensorboard", extra="tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    for run, name in run_names(result).items():
        with SummaryWriter(str(folder / name)) as writer:
            for tag, points in {**metric_series(result, run), **verdict_series(result, run)}.items():
                for layer, value in points:
                    writer.add_scalar(tag, value, layer)
            writer.add_text("audit", markdown(result))
