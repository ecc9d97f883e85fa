"""The audit in MLflow: a run for each tuned checkpoint, with a few metrics and the layers as tables."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from ckptaudit.errors import ReportError, printable
from ckptaudit.report.markdown import markdown
from ckptaudit.report.tracked import TrackedRun, tracked_runs
from ckptaudit.results.packages import need
from ckptaudit.results.records import AuditResult

EXPERIMENT = "ckptaudit"

LONGEST = 250
"""Characters of a metric's name, and of a tag's value."""

MOST = 1000
"""Metrics that MLflow takes at once."""


def log_to_mlflow(result: AuditResult, store: str = "") -> None:
    """Log to the server or database that a URI names, to a folder, or where MLflow itself would.

    That is what MLFLOW_TRACKING_URI says, else a SQLite file in the current folder. Raises ReportError without
    the package, and for what MLflow refuses.
    """
    need("mlflow", extra="mlflow")
    from mlflow.exceptions import MlflowException

    uri = _uri(store)
    if uri.startswith("file:"):
        # MLflow asks for this word before it writes into a folder rather than a database.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    try:
        _log(result, uri)
    except (MlflowException, OSError, ImportError) as error:
        where = printable(store or uri)
        raise ReportError(f"{where}: MLflow cannot log there ({printable(error)}).") from None


def _uri(store: str) -> str:
    if not store:
        import mlflow

        return str(mlflow.get_tracking_uri())
    return store if "://" in store or store.startswith("file:") else Path(store).absolute().as_uri()


def _log(result: AuditResult, uri: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    known = client.get_experiment_by_name(EXPERIMENT)
    experiment = known.experiment_id if known else client.create_experiment(EXPERIMENT)
    page = markdown(result)
    for run in tracked_runs(result):
        tags = {name: value[:LONGEST] for name, value in run.tags.items()}
        made = client.create_run(experiment, run_name=run.name, tags=tags)
        metrics = _metrics(run)
        for start in range(0, len(metrics), MOST):
            client.log_batch(made.info.run_id, metrics=metrics[start : start + MOST])
        for name, text in (
            ("audit.md", page),
            ("verdicts.csv", run.verdicts.csv()),
            ("layers.csv", run.layers.csv()),
        ):
            client.log_text(made.info.run_id, text, name)
        client.set_terminated(made.info.run_id)


def _metrics(run: TrackedRun) -> list[Any]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    points = [(name, value, run.step) for name, value in run.scalars.items()]
    points += [(name, value, step) for name, curve in run.curves.items() for step, value in curve]
    return [Metric(name[:LONGEST], value, now, step) for name, value, step in points]
