"""The curves of a log in pictures and experiment trackers, each read back by its own library."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from ckptaudit import AuditResult, audit
from ckptaudit.report.mlflow import log_to_mlflow
from ckptaudit.report.plot import write_plot
from ckptaudit.report.tensorboard import log_to_tensorboard
from ckptaudit.report.tracked import tracked_runs
from ckptaudit.results.json_io import write_json
from ckptaudit.results.rollouts import StepCurve
from ckptaudit.rollouts.scalars.wandb import rows as wandb_rows
from tests.conftest import package

RUNS = Path(__file__).parents[2] / "fixtures" / "rollouts"


@pytest.fixture(scope="module")
def mixed() -> AuditResult:
    return audit(rollouts=RUNS / "mixed-groups")


def test_the_picture_draws_curves_with_limits_and_the_first_failure(mixed: AuditResult, tmp_path: Path) -> None:
    package("matplotlib")
    (path,) = write_plot(mixed, tmp_path / "log.svg")
    # matplotlib draws letters as paths and keeps the words as comments.
    text = path.read_text()
    assert "<!-- group_prompt_count -->" in text
    assert re.search("<!-- groups-of-one-prompt (&lt;|<)= 0 -->", text)
    assert "<!-- first: step 1 -->" in text


def test_a_folder_holds_a_picture_for_each_metric_with_values(mixed: AuditResult, tmp_path: Path) -> None:
    package("matplotlib")
    (log,) = mixed.rollouts
    curves = [curve for curve in log.curves if any_value(curve)][::6]
    assert len(curves) > 5
    some = replace(mixed, rollouts=(replace(log, curves=tuple(curves)),))
    names = {path.name for path in write_plot(some, tmp_path / "pictures")}
    assert names == {f"{curve.metric}.png" for curve in curves}


def any_value(curve: StepCurve) -> bool:
    return any(value is not None and math.isfinite(value) for value in curve.values)


def test_a_log_alone_can_be_drawn_from_the_command_line(tmp_path: Path) -> None:
    package("matplotlib")
    command = [sys.executable, "-m", "pytest", "-q", f"--audit-rollouts={RUNS / 'healthy'}", "--audit-plot=a.png"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_trackers_get_the_curves_at_the_steps_of_training(mixed: AuditResult) -> None:
    (run,) = tracked_runs(mixed)
    kept = {curve.metric: curve for curve in mixed.rollouts[0].curves}
    points = run.curves["rollouts/response_length"]
    assert [step for step, _ in points] == list(range(1, 21))
    assert [value for _, value in points] == list(kept["response_length"].values)
    steps = dict(run.by_step())
    assert steps[7]["rollouts/reward_mean"] == kept["reward_mean"].values[6]


def test_tensorboard_reads_the_curves_back(mixed: AuditResult, tmp_path: Path) -> None:
    package("tensorboard")
    log_to_tensorboard(mixed, tmp_path)
    curves = read_events(tmp_path)
    assert curves["rollouts/reward_mean"] == pytest.approx(
        dict(tracked_runs(mixed)[0].curves["rollouts/reward_mean"])
    )


def read_events(folder: Path) -> dict[str, dict[int, float]]:
    """By tensorboard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (run,) = (path for path in folder.iterdir() if path.is_dir())
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


# SQLAlchemy warns of what MLflow asks it for.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mlflow_reads_the_curves_back(mixed: AuditResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package("mlflow")
    monkeypatch.chdir(tmp_path)  # where it puts the texts
    from mlflow import MlflowClient

    log_to_mlflow(mixed, f"sqlite:///{tmp_path}/runs.db")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/runs.db")
    experiment = client.get_experiment_by_name("ckptaudit")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "rollouts/reward_mean")
    points = dict(tracked_runs(mixed)[0].curves["rollouts/reward_mean"])
    assert {point.step: point.value for point in history} == points


def test_wandb_keeps_the_curves_over_an_axis_of_their_own(mixed: AuditResult, tmp_path: Path) -> None:
    package("wandb")
    program = """
import sys
from pathlib import Path
from ckptaudit.report.wandb import log_to_wandb
from ckptaudit.results.json_io import read_json
log_to_wandb(read_json(Path(sys.argv[1])), "audits")
"""
    write_json(mixed, tmp_path / "a.json")
    # wandb takes its folder from the environment once in a process.
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.json")], env=environment, check=True)
    rows: dict[str, list[float]] = {}
    for row in wandb_rows(tmp_path):
        rows.setdefault(row.name, []).append(row.value)
    assert rows["rollouts/step"] == list(range(1, 21))
    kept = [value for _, value in tracked_runs(mixed)[0].curves["rollouts/reward_mean"]]
    assert rows["rollouts/reward_mean"] == kept
