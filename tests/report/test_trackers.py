"""Parquet, TensorBoard, MLflow, W&B and Trackio, read back with their own packages."""

from __future__ import annotations

import builtins
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ckptaudit.errors import ReportError
from ckptaudit.report.mlflow import log_to_mlflow
from ckptaudit.report.parquet import write_parquet
from ckptaudit.report.run_names import run_names
from ckptaudit.report.tensorboard import log_to_tensorboard
from ckptaudit.report.tracked import LAYERS, Table, tracked_runs, worst_margin
from ckptaudit.report.trackio import log_to_trackio
from ckptaudit.report.wandb import log_to_wandb
from ckptaudit.results import packages
from ckptaudit.results.json_io import write_json
from ckptaudit.results.records import AuditResult, StepRecord, Trajectory
from ckptaudit.results.tables import MEASUREMENTS
from tests.conftest import package
from tests.synthetic import large, result, verdict

SHIFT = "normalized_spectral_shift"


def test_the_table_holds_every_measurement(supervised: AuditResult, tmp_path: Path) -> None:
    write_parquet(supervised, tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    assert tuple(table.column_names) == MEASUREMENTS
    assert table.schema.metadata[b"ckptaudit.schema"] == b"ckptaudit/1"
    assert [f.name for f in table.schema if f.nullable] == ["layer", "value"]
    rows = table.to_pylist()
    assert [(r["tensor"], r["metric"], r["value"], r["kind"]) for r in rows] == [
        (m.tensor, m.metric, m.value, m.kind) for m in supervised.measurements
    ]
    assert {r["unit"] for r in rows if r["metric"] == "principal_rotation_left"} == {"degrees"}
    assert [tuple(r["shape"]) for r in rows[:50]] == [m.shape for m in supervised.measurements[:50]]


def test_a_run_has_a_few_scalars_and_its_layers_as_a_table(supervised: AuditResult) -> None:
    (run,) = tracked_runs(supervised)
    assert run.scalars.items() >= {"gate_open": 0.0, "failed": 24.0, "errors": 0.0, "warned": 0.0}.items()
    assert run.scalars["worst_margin"] == pytest.approx(21.09, rel=1e-3)
    assert run.scalars["margin/spectral-drift"] == run.scalars["worst_margin"]
    assert len(run.scalars) < 30
    assert {row[:3] for row in run.layers.rows} >= {(SHIFT, "v_proj", layer) for layer in range(4)}
    assert len(run.verdicts.rows) == len(supervised.verdicts)


def test_experts_of_a_layer_share_a_row_with_their_range() -> None:
    (run,) = tracked_runs(large(layers=2, experts=4, broken=1))
    row = next(row for row in run.layers.rows if row[1:3] == ("up_proj", 1))
    assert row[3:] == (4, 1e-5, (0.05 + 3e-5) / 4, 0.05)


def test_the_worst_margin_of_an_open_gate_is_below_one_and_counts_have_none() -> None:
    assert worst_margin([verdict("layers.0", 0.0005), verdict("layers.1", 0.0001)]) == 0.5
    count = msgspec.structs.replace(verdict("model", 3.0, limit=0.0), metric="nonfinite_entries")
    assert worst_margin([count]) is None


def test_a_text_that_a_spreadsheet_would_compute_with_is_marked() -> None:
    table = Table(("name", "value"), (("=1+1", -2.0), ("plain", None)))
    assert table.csv() == "name,value\n'=1+1,-2.0\nplain,\n"


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
    (run,) = tracked_runs(supervised)
    assert set(events.Tags()["scalars"]) == set(run.scalars)
    assert [(e.step, e.value) for e in events.Scalars("worst_margin")] == [(0, pytest.approx(21.09, rel=1e-3))]
    (text,) = events.Tensors("audit/text_summary")
    assert b"gate closed" in text.tensor_proto.string_val[0]
    (layers,) = events.Tensors("layers/text_summary")
    assert b"| normalized_spectral_shift | v_proj | 1 |" in layers.tensor_proto.string_val[0].replace(
        b"&#95;", b"_"
    )


def test_the_steps_of_a_run_are_the_steps_of_its_scalars() -> None:
    names = ("out/checkpoint-40", "out/checkpoint-70")
    steps = tuple(StepRecord(name, name[4:], int(name[-2:])) for name in names)
    row = Trajectory(name="out", steps=steps, counted=False, first_failures={}, series=())
    found = result([verdict("layers.0", 0.5, tuned=name) for name in names], tuned=names)
    assert [r.step for r in tracked_runs(msgspec.structs.replace(found, trajectories=(row,)))] == [40, 70]


# SQLAlchemy warns of what MLflow asks it for.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("store", ["sqlite", "default", "folder"])
def test_mlflow_reads_back_what_was_logged(
    supervised: AuditResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = {"sqlite": f"sqlite:///{tmp_path}/runs.db", "default": "", "folder": str(tmp_path / "runs")}[store]
    if store == "default":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    log_to_mlflow(supervised, uri)
    read = {"default": f"sqlite:///{tmp_path}/mlflow.db", "folder": (tmp_path / "runs").as_uri()}.get(store, uri)
    client = MlflowClient(tracking_uri=read)
    experiment = client.get_experiment_by_name("ckptaudit")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "sft"
    assert run.data.tags["gate"] == "closed"
    assert "spectral-drift" in run.data.tags["broken"]
    assert run.data.metrics["gate_open"] == 0
    assert run.data.metrics["failed"] == 24
    assert len(run.data.metrics) < 30
    assert {a.path for a in client.list_artifacts(run.info.run_id)} == {"audit.md", "layers.csv", "verdicts.csv"}


def logged_alone(tracker: str, audited: AuditResult, folder: Path, **environment: str) -> None:
    """Log a result in a process of its own: both trackers take their folder from the environment once."""
    package(tracker)
    program = f"""
import sys
from pathlib import Path
from ckptaudit.report.{tracker} import log_to_{tracker}
from ckptaudit.results.json_io import read_json
log_to_{tracker}(read_json(Path(sys.argv[1])), "audits")
"""
    write_json(audited, folder / "a.json")
    command = [sys.executable, "-c", program, str(folder / "a.json")]
    subprocess.run(command, env=os.environ | environment, check=True)


def test_wandb_keeps_scalars_and_tables_offline(supervised: AuditResult, tmp_path: Path) -> None:
    logged_alone("wandb", supervised, tmp_path, WANDB_MODE="offline", WANDB_DIR=str(tmp_path))
    # A log of records in blocks of 32 KiB, a header of 7 bytes before each part.
    (file,) = tmp_path.rglob("*.wandb")
    kept = file.read_bytes()
    (run,) = tracked_runs(supervised)
    assert sum(name.encode() in kept for name in run.scalars) >= len(run.scalars) - 1
    assert str(run.scalars["worst_margin"]).encode() in kept
    tables = {path.name.partition("_")[0]: path.read_text() for path in tmp_path.rglob("*.table.json")}
    assert set(tables) == {"verdicts", "layers"}
    assert json.loads(tables["layers"])["columns"] == list(LAYERS)


def test_trackio_keeps_scalars_and_tables_in_its_local_store(supervised: AuditResult, tmp_path: Path) -> None:
    logged_alone("trackio", supervised, tmp_path, TRACKIO_DIR=str(tmp_path / "store"), HF_HUB_OFFLINE="1")
    with closing(sqlite3.connect(tmp_path / "store" / "audits.db")) as store:
        ((text,),) = store.execute("select metrics from metrics").fetchall()
    kept = json.loads(text)
    assert kept["gate_open"] == 0
    assert kept["failed"] == 24
    assert {"verdicts", "layers"} <= set(kept)


def test_mlflow_that_cannot_be_reached_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="MLflow cannot log there"):
        log_to_mlflow(result([]), str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (write_parquet, "parquet"),
        (log_to_tensorboard, "tensorboard"),
        (log_to_mlflow, "mlflow"),
        (log_to_wandb, "wandb"),
        (log_to_trackio, "trackio"),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_extra(
    write: object, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda _: None)
    assert isinstance(write, builtins.type(write_parquet))
    with pytest.raises(ReportError, match=rf"ckptaudit\[{words}\]"):
        write(result([]), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []
