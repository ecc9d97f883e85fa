"""Parquet, TensorBoard and MLflow, read back with their own packages."""

from __future__ import annotations

import builtins
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ckptaudit.errors import ReportError
from ckptaudit.report import files
from ckptaudit.report.mlflow import log_to_mlflow
from ckptaudit.report.parquet import COLUMNS, write_parquet
from ckptaudit.report.series import metric_series, run_names, verdict_series
from ckptaudit.report.tensorboard import log_to_tensorboard
from ckptaudit.results.records import AuditResult
from tests.synthetic import large, result, verdict

SHIFT = "normalized_spectral_shift"


def test_the_table_holds_every_measurement(supervised: AuditResult, tmp_path: Path) -> None:
    write_parquet(supervised, tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    assert tuple(table.column_names) == COLUMNS
    assert table.schema.metadata[b"ckptaudit.schema"] == b"ckptaudit/1"
    assert [f.name for f in table.schema if f.nullable] == ["layer", "value"]
    rows = table.to_pylist()
    assert [(r["tensor"], r["metric"], r["value"], r["kind"]) for r in rows] == [
        (m.tensor, m.metric, m.value, m.kind) for m in supervised.measurements
    ]
    assert {r["unit"] for r in rows if r["metric"] == "principal_rotation_left"} == {"degrees"}
    assert [tuple(r["shape"]) for r in rows[:50]] == [m.shape for m in supervised.measurements[:50]]


def test_one_matrix_a_layer_is_a_curve_and_many_are_three() -> None:
    plain = metric_series(large(layers=3, experts=0, broken=1), "tuned")
    assert plain[f"{SHIFT}/v_proj"] == [(0, 1e-5), (1, 0.005), (2, 1e-5)]
    experts = metric_series(large(layers=2, experts=4, broken=1), "tuned")
    assert experts[f"{SHIFT}/up_proj/max"] == [(0, 1e-5), (1, 0.05)]
    assert experts[f"{SHIFT}/up_proj/mean"][1] == pytest.approx((1, (0.05 + 3e-5) / 4))
    assert experts[f"{SHIFT}/up_proj/min"] == [(0, 1e-5), (1, 1e-5)]


def test_verdicts_are_curves_with_their_limits() -> None:
    series = verdict_series(large(layers=3, experts=0, broken=1), "tuned")
    assert series["checks/drift/value"] == [(0, 1e-5), (1, 0.005), (2, 1e-5)]
    assert series["checks/drift/limit"] == [(0, 0.001), (1, 0.001), (2, 0.001)]
    outside = result([verdict("vision_tower.layers.3", 0.5), verdict("../lm head", 0.5), verdict("model", 0.5)])
    assert set(verdict_series(outside, "tuned")) == {
        f"checks/drift{part}/{what}" for part in ("/vision_tower", "/.._lm_head", "") for what in ("value", "limit")
    }


def test_runs_have_names_of_their_own() -> None:
    assert run_names(result([], tuned=("a/x", "b/x", "c/..", "c/y z"))) == {
        "a/x": "x",
        "b/x": "x-1",
        "c/..": "__",
        "c/y z": "y_z",
    }


def test_tensorboard_reads_back_what_was_logged(supervised: AuditResult, tmp_path: Path) -> None:
    log_to_tensorboard(supervised, tmp_path)
    events = EventAccumulator(str(tmp_path / "sft"), size_guidance={"scalars": 0})
    events.Reload()
    wanted = {m.layer: m.value for m in supervised.measurements if m.metric == SHIFT and m.role == "v_proj"}
    logged = {e.step: e.value for e in events.Scalars(f"{SHIFT}/v_proj")}
    assert logged == {layer: pytest.approx(value, rel=1e-6) for layer, value in wanted.items()}
    assert [e.value for e in events.Scalars("checks/spectral-drift/limit")] == [pytest.approx(0.001)] * 4
    (text,) = events.Tensors("audit/text_summary")
    assert b"gate closed" in text.tensor_proto.string_val[0]


def test_mlflow_reads_back_what_was_logged(
    supervised: AuditResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    log_to_mlflow(supervised, str(tmp_path / "runs"))
    client = MlflowClient(tracking_uri=(tmp_path / "runs").as_uri())
    experiment = client.get_experiment_by_name("ckptaudit")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "sft"
    assert run.data.tags["gate"] == "closed"
    assert "spectral-drift" in run.data.tags["broken"]
    history = client.get_metric_history(run.info.run_id, f"{SHIFT}/v_proj")
    assert [(h.step, h.value) for h in sorted(history, key=lambda h: h.step)] == metric_series(
        supervised, supervised.tuned[0]
    )[f"{SHIFT}/v_proj"]
    assert any(a.path == "audit.md" for a in client.list_artifacts(run.info.run_id))


def test_mlflow_that_cannot_be_reached_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="MLflow cannot log there"):
        log_to_mlflow(result([]), str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("write", "words"),
    [(write_parquet, "parquet"), (log_to_tensorboard, "tensorboard"), (log_to_mlflow, "mlflow")],
)
def test_a_package_that_is_missing_is_named_with_its_extra(
    write: object, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "find_spec", lambda _: None)
    assert isinstance(write, builtins.type(write_parquet))
    with pytest.raises(ReportError, match=rf"ckptaudit\[{words}\]"):
        write(result([]), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []
