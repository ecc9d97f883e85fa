"""Curves over the saves of a run: limits and units on the page and in the picture, and no bound among them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ckptaudit.report.html import render_html
from ckptaudit.report.html.lines import lines_of
from ckptaudit.report.plot import write_plot
from ckptaudit.report.runs import first_shown, labels, run_rows
from ckptaudit.report.steps import step_curves
from ckptaudit.results.records import AuditResult, MetricCurve, StepRecord, Trajectory
from tests.synthetic import METRIC, check, measured, result, verdict

SAVES = ("out/checkpoint-10", "out/checkpoint-20")


@pytest.fixture
def saves() -> AuditResult:
    """Two saves of a run, the later of which breaks the check on the one metric that has a limit."""
    tensor = "model.layers.0.self_attn.q_proj.weight"
    values = dict(zip(SAVES, (1e-4, 0.021), strict=True))
    rows = [msgspec.structs.replace(measured(tensor, 0, "q_proj", v), tuned=run) for run, v in values.items()]
    found = result(
        [verdict("layers.0", v, worst=tensor, tuned=run) for run, v in values.items()], rows, tuned=SAVES
    )
    drift = MetricCurve(METRIC, (5e-5, 0.01), (1e-4, 0.021), (2e-4, None))
    other = MetricCurve("relative_update_norm", (0.1, 0.1), (0.2, 0.2), (0.3, 0.3))
    steps = tuple(StepRecord(run, Path(run).name, int(run[-2:])) for run in SAVES)
    row = Trajectory(name="out", steps=steps, counted=False, first_failures={}, series=(other, drift))
    return msgspec.structs.replace(found, trajectories=(row,))


def test_a_curve_has_its_unit_and_the_limits_of_the_checks_on_it(saves: AuditResult) -> None:
    (curve,) = step_curves(saves, saves.trajectories[0])
    assert (curve.metric, curve.unit, curve.steps) == (METRIC, "dimensionless", (10, 20))
    assert [(limit.check, limit.sign, limit.limit) for limit in curve.limits] == [("drift", "<=", 0.001)]


def test_a_limit_on_vectors_alone_is_none_on_the_curve_of_matrices(saves: AuditResult) -> None:
    vectors = msgspec.structs.replace(saves, checks=(check("drift", roles=("norm",)),))
    assert step_curves(vectors, vectors.trajectories[0])[0].limits == ()


@pytest.mark.parametrize("name", ["all.png", "all.svg"])
def test_one_picture_holds_all_metrics(saves: AuditResult, tmp_path: Path, name: str) -> None:
    (path,) = write_plot(saves, tmp_path / name)
    start = path.read_bytes()[:200]
    assert start.startswith(b"\x89PNG") if name.endswith("png") else b"<?xml" in start


def test_a_folder_holds_a_picture_for_each(saves: AuditResult, tmp_path: Path) -> None:
    names = [path.name for path in write_plot(saves, tmp_path / "plots")]
    assert names == [f"{METRIC}.png", "relative_update_norm.png"]


def test_the_limit_and_the_unit_are_written_into_the_picture(saves: AuditResult, tmp_path: Path) -> None:
    (path,) = write_plot(saves, tmp_path / "all.svg")
    # matplotlib draws letters as paths and keeps the words as comments.
    text = path.read_text()
    assert "<!-- drift &lt;= 0.001 -->" in text or "<!-- drift <= 0.001 -->" in text
    assert "<!-- dimensionless -->" in text


def test_the_page_has_a_row_for_each_run_and_shows_the_gravest_first(saves: AuditResult) -> None:
    assert labels(saves) == {run: Path(run).name for run in SAVES}
    assert [row.is_open for row in run_rows(saves)] == [True, False]
    assert first_shown(saves) == SAVES[1]
    page = render_html(saves)
    assert page.count('class="show-run"') == 2
    assert '"first":1' in page


def test_a_bar_is_full_for_the_farthest_and_not_for_all_beyond_ten_times() -> None:
    found = result([verdict(f"layers.{i}", value) for i, value in enumerate((0.001, 0.02, 0.2, 2.0))])
    (line,) = lines_of(found, "tuned")
    heights = [bar.height for bar in line.bars]
    assert heights[0] == 0.5
    assert heights == sorted(set(heights))
    assert heights[-1] == 1.0
