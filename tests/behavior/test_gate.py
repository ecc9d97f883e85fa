"""Behavior through the complete trip: `audit()`, the reports, and the real command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from ckptaudit.behavior.base_rows import Kept
from ckptaudit.behavior.shown import ShownToken
from ckptaudit.judging.config import Config
from ckptaudit.measurement import probes as running
from ckptaudit.options import AuditOptions
from ckptaudit.pipeline.api import audit, audited
from ckptaudit.report.html.behavior import behavior_views
from ckptaudit.report.html.page import render_html
from ckptaudit.results.diff import compare
from ckptaudit.results.records import AuditResult
from tests.behavior.judged import FACTS
from tests.conftest import FIXTURES

BASE = FIXTURES / "base"


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("probes") / "probes.jsonl"
    lines = []
    for name in ("task", "retain"):
        text = (FIXTURES / "probes" / f"{name}.jsonl").read_text(encoding="utf-8")
        own = [{**json.loads(line), "set": name} for line in text.splitlines()]
        lines += [{k: v for k, v in line.items() if k != "id"} for line in own]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def audited_on(probes: Path, *tuned: str, profile: str = "behavior", cache: str = "off") -> AuditResult:
    options = AuditOptions(
        base=str(BASE),
        tuned=tuple(str(FIXTURES / name) for name in tuned),
        profile=profile,
        complete=False,
        cache=cache,
        auxiliary={"probes": str(probes)},
    )
    return audited(options, Config(probes=FACTS))


@pytest.fixture(scope="module")
def gentle(probes: Path) -> AuditResult:
    return audited_on(probes, "rlvr-gentle")


@pytest.fixture(scope="module")
def sft(probes: Path) -> AuditResult:
    return audited_on(probes, "sft")


def outcomes(result: AuditResult) -> dict[str, str]:
    return {verdict.check: verdict.outcome for verdict in result.verdicts if verdict.subject == "probes"}


def test_a_gentle_run_opens_the_gate(gentle: AuditResult) -> None:
    assert gentle.passed
    assert {outcomes(gentle)[check] for check in ("kl-task", "kl-retain", "shifted-share", "rank-shift")} == {
        "passed"
    }
    assert "behavior" not in " ".join(gentle.not_judged)


def test_supervised_tuning_closes_it(sft: AuditResult) -> None:
    assert not sft.passed
    kl = next(verdict for verdict in sft.verdicts if verdict.check == "kl-task")
    assert kl.outcome == "failed"
    assert kl.worst == "set task"
    assert kl.value == pytest.approx(5.86, rel=0.01)


def test_the_limits_of_reinforcement_learning_are_not_those_of_the_sft_profile(probes: Path) -> None:
    found = outcomes(audited_on(probes, "sft", profile="sft"))
    assert "kl-task" not in found
    assert found["kl-task-tuned"] == "failed"


def test_probes_of_mode_connectivity_bring_no_checks_of_behavior(probes: Path) -> None:
    found = {verdict.check for verdict in audited_on(probes, "rlvr-gentle", profile="mode_connectivity").verdicts}
    assert not {"kl-task", "kl-retain"} & found


def test_without_probes_one_line_says_what_was_not_judged() -> None:
    result = audit(BASE, FIXTURES / "rlvr-gentle", profile="integrity", cache="off")
    assert [line for line in result.not_judged if "behavior" in line] == ["behavior: give probes= FILE"]


def test_numbers_stand_in_the_result_with_their_intervals(gentle: AuditResult) -> None:
    kl = next(m for m in gentle.measurements if (m.metric, m.tensor) == ("kl_tuned_base", "set retain"))
    assert kl.value == pytest.approx(0.00042, rel=0.02)
    assert (kl.low or 0) < 0.00042 < (kl.high or 0)
    assert (kl.samples, kl.method) == (16, "sampled")
    assert "rounding comes to" in kl.remark


def test_the_page_shows_both_models_side_by_side(sft: AuditResult) -> None:
    page = render_html(sft)
    section = page[page.index('id="behavior"') :]
    assert "set task" in section
    assert "nats per token of the tuned model" in section
    assert 'class="up' in section
    assert len(sft.behavior[0].excerpt.shown) == 12


def test_the_page_draws_each_set_against_its_limit(sft: AuditResult) -> None:
    charts = {chart.check: chart for chart in behavior_views(sft)[0].charts}
    retain = charts["kl-retain"]
    assert [bar.subject for bar in retain.bars] == ["retain"]
    assert retain.bars[0].state == "past"
    assert retain.zero_at <= retain.limit_at < retain.bars[0].low < retain.bars[0].high <= 300
    assert charts["kl-task"].bars[0].said.startswith("set task: 5.8")
    page = render_html(sft)
    assert page.count('class="past"') == sum(bar.state == "past" for c in charts.values() for bar in c.bars)


def test_a_set_that_a_check_leaves_out_has_no_bar(gentle: AuditResult) -> None:
    charts = {chart.check: chart for chart in behavior_views(gentle)[0].charts}
    assert {bar.subject for bar in charts["kl-task-given"].bars} == {"task"}
    assert {bar.state for bar in charts["kl-retain"].bars} == {"within"}


def test_what_a_model_says_cannot_enter_the_page_as_markup(sft: AuditResult) -> None:
    record = sft.behavior[0]
    evil = "<script>alert(1)</script>\x1b[31m"
    token = ShownToken(evil, 1.0, 1.0)
    shown = replace(record.excerpt.shown[0], prompt=evil, tuned=evil, tokens=(token,))
    forged = replace(sft, behavior=(replace(record, excerpt=replace(record.excerpt, shown=(shown,))),))
    page = render_html(forged)
    assert "<script>alert" not in page
    assert "\x1b" not in page


def test_two_audits_differ_in_their_behavior(gentle: AuditResult, sft: AuditResult) -> None:
    found = compare(gentle, sft)
    assert {"kl-task", "shifted-share"} <= {changed.check for changed in found.changed if changed.turn == "worse"}
    assert any(moved.metric == "kl_on_answers" for moved in found.moved)


def test_saves_of_a_run_have_curves_of_behavior(probes: Path) -> None:
    result = audited_on(probes, "rlvr-step40", "rlvr-step70")
    if not result.trajectories:
        pytest.fail("the two saves are steps of one run")
    curve = next(row for row in result.trajectories[0].series if row.metric == "kl_tuned_base")
    assert all(value is not None for value in curve.median)


def test_rows_of_the_base_are_computed_once(probes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = audited_on(probes, "rlvr", cache=str(tmp_path))
    made: list[object] = []
    monkeypatch.setattr(running, "Kept", lambda found, keep: Kept(found, lambda rows: made.append(rows)))
    again = audited_on(probes, "rlvr", cache=str(tmp_path))
    assert made == []
    assert outcomes(again) == outcomes(first)
    kept = {m.metric: m.value for m in first.measurements}
    assert {m.metric: m.value for m in again.measurements} == pytest.approx(kept, nan_ok=True)


def refused(probes: str, tmp_path: Path, base: Path = BASE) -> str:
    """What the real command says where it ends with exit code 4."""
    file = tmp_path / "probes.jsonl"
    file.write_text(probes, encoding="utf-8")
    words = ["--base", base, "--tuned", FIXTURES / "rlvr", "--audit-probes", file, "--audit-profile", "behavior"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *map(str, words)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 4, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    assert len(lines) == 1
    return lines[0]


def test_an_empty_file_ends_the_run(tmp_path: Path) -> None:
    assert "holds no probe" in refused("", tmp_path)


def test_a_prompt_that_fills_the_context_ends_the_run(tmp_path: Path) -> None:
    assert "fills the context" in refused(json.dumps({"prompt": "1" * 300}), tmp_path)


def test_a_model_that_cannot_be_built_ends_the_run(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(BASE, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"model_type": "unheard_of"}))
    said = refused(json.dumps({"text": "abc"}), tmp_path, base)
    assert "transformers builds no causal language model" in said
