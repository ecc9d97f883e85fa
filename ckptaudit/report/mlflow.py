"""The audit in MLflow: one run for each tuned checkpoint, layers along the step axis."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from ckptaudit.errors import ReportError, printable
from ckptaudit.report.files import need
from ckptaudit.report.markdown import markdown
from ckptaudit.report.series import metric_series, run_names, verdict_series
from ckptaudit.results.records import AuditResult

EXPERIMENT = "ckptaudit"
AT_ONCE = 1000
"""MLflow takes no more metrics in one request."""

LONGEST = 250


def log_to_mlflow(result: AuditResult, store: str) -> None:
    """Log to a folder of runs, or to the tracking server or database that a URI names.

    Raises ReportError without the package, and for what MLflow refuses.
    """
    need("mlflow", extra="mlflow")
    from mlflow.exceptions import MlflowException

    uri = store if "://" in store or store.startswith("file:") else Path(store).absolute().as_uri()
    if uri.startswith("file:"):
        # MLflow asks for this word before it writes into a folder rather than a database.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    try:
        _log(result, uri)
    except (MlflowException, OSError) as error:
        raise ReportError(f"{printable(store)}: MLflow cannot log there ({printable(error)}).") from None


def _log(result: AuditResult, uri: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    known = client.get_experiment_by_name(EXPERIMENT)
    experiment = known.experiment_id if known else client.create_experiment(EXPERIMENT)
    for path, name in run_names(result).items():
        run = client.create_run(experiment, run_name=name, tags=_tags(result, path))
        for batch in _batches(_metrics(result, path)):
            client.log_batch(run.info.run_id, metrics=batch)
        client.log_text(run.info.run_id, markdown(result), "audit.md")
        client.set_terminated(run.info.run_id)


def _metrics(result: AuditResult, run: str) -> list[Any]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    series = {**metric_series(result, run), **verdict_series(result, run)}
    return [Metric(name[:LONGEST], value, now, layer) for name, points in series.items() for layer, value in points]


def _tags(result: AuditResult, run: str) -> dict[str, str]:
    prints = {row.path: row.fingerprint for row in result.checkpoints}
    own = [v for v in result.verdicts if v.tuned == run]
    return {
        "base": printable(result.base),
        "base_fingerprint": prints.get(result.base, ""),
        "tuned": printable(run),
        "tuned_fingerprint": prints.get(run, ""),
        "judged": "weights" if result.has_pair else "rollouts alone",
        "profile": result.about.profile if result.about else "",
        "gate": "closed" if any(v.closes for v in own) else "open",
        "broken": ", ".join(dict.fromkeys(v.check for v in own if v.closes)),
    }


def _batches(metrics: list[Any]) -> list[list[Any]]:
    return [metrics[i : i + AT_ONCE] for i in range(0, len(metrics), AT_ONCE)]
