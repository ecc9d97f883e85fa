"""Rollouts of runs that are trusted: limits learned from them, and two audits side by side."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptaudit import audit
from ckptaudit.cli.program import main
from ckptaudit.judging.config import load_config
from ckptaudit.metrics.scales import badness
from ckptaudit.results.diff import compare

RUNS = Path(__file__).parents[2] / "fixtures" / "rollouts"
FACTS = '[rollouts]\ngroup_size = 8\nadvantage = "trl"\nreward_weights = {exact_match = 1.0, brackets = 1.0}\n'


@pytest.fixture
def learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `ckptaudit calibrate` makes of the healthy run alone."""
    monkeypatch.chdir(tmp_path)
    tmp_path.joinpath("ckptaudit.toml").write_text(FACTS)
    run = str(RUNS / "healthy")
    assert main(["calibrate", "--rollouts", run, "--scalars", run, "-o", "learned.toml"]) == 0
    return tmp_path / "learned.toml"


def test_limits_learned_from_a_healthy_run_tell_a_stale_engine(learned: Path) -> None:
    config = load_config(learned)
    assert (config.profile, config.facts.group_size) == ("", 8)
    assert config.facts.reward_weights == {"exact_match": 1.0, "brackets": 1.0}
    assert audit(rollouts=RUNS / "healthy", scalars=RUNS / "healthy", config=config).passed
    stale = audit(rollouts=RUNS / "stale-engine", scalars=RUNS / "stale-engine", config=config)
    closing = {v.check for v in stale.verdicts if v.closes}
    assert {"mismatch-k3", "mismatch-k3-mean", "mismatch-multiplicative", "mismatch-absolute"} <= closing


def test_what_no_run_may_have_is_not_learned(learned: Path) -> None:
    text = learned.read_text()
    assert "# groups-of-one-prompt <= 0 stays: no limit on a count is learned." in text
    assert f"# rollouts {RUNS / 'healthy'} of ckptaudit" in text


def test_a_run_that_fails_what_no_limit_moves_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["calibrate", "--rollouts", str(RUNS / "mixed-groups"), "-o", "learned.toml"]) == 4
    assert "groups-of-one-prompt[rollouts] fails, and no limit on a count is learned" in capsys.readouterr().err
    assert not (tmp_path / "learned.toml").exists()


def test_a_factor_is_worse_by_what_it_has_beyond_one() -> None:
    scale = badness("mismatch_mult_median", at_most=True, limit=1.05)
    assert scale.worsened(1.02, 2.0) == pytest.approx(1.04)
    assert scale.of(1.0) == pytest.approx(0.01 * 0.05)


def test_two_logs_differ_by_verdicts_and_numbers() -> None:
    healthy, stale = audit(rollouts=RUNS / "healthy"), audit(rollouts=RUNS / "stale-engine")
    found = compare(healthy, stale)
    assert found.remarks == ()
    assert ("mismatch-k3-mean", "passed", "failed") in {(c.check, c.was, c.now) for c in found.changed}
    moved = {(m.metric, m.tensor): m.factor for m in found.moved}
    assert moved["mismatch_k3", "median of steps"] > 100
    assert moved["mismatch_k3_mean", "run"] > 10
    assert not compare(healthy, healthy).moved


def test_checks_are_proven_on_a_log_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.toml"
    bundled = (Path(__file__).parents[2] / "checks" / "rollouts.toml").read_text().split("[[check]]")
    wanted = [table for table in bundled if 'id = "mismatch-k3-mean"' in table or 'id = "lists-aligned"' in table]
    file.write_text("".join(f"[[check]]{table}" for table in wanted))
    assert main(["checks", str(file), "--prove", "--rollouts", str(RUNS / "healthy")]) == 0
    told = capsys.readouterr().out
    assert "lists-aligned: broken by short_logps" in told
    assert "mismatch-k3-mean: broken by other_weights" in told
