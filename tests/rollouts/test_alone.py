"""Rollouts without a pair: judged by their own checks, and never reported as a verdict on weights."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ckptaudit import CkptAuditError, audit
from ckptaudit.judging.config import load_config
from ckptaudit.report.html import render_html
from ckptaudit.report.markdown import markdown
from ckptaudit.results.json_io import read_json, write_json

FIXTURES = Path(__file__).parents[2] / "fixtures"
RUNS = FIXTURES / "rollouts"
ALONE = "gate open for the rollouts alone: no weights were judged"


def test_a_log_is_judged_without_weights_and_says_so(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest(f"--audit-rollouts={RUNS / 'healthy'}", "--audit-json=a.json", "--junitxml=j.xml")
    assert result.ret == 0
    result.stdout.fnmatch_lines([
        f"ckptaudit: rollouts {RUNS / 'healthy'}, without weights",
        "not judged: weights and files: give --base PATH and --tuned PATH",
        ALONE,
    ])  # fmt: skip
    found = read_json(pytester.path / "a.json")
    assert (found.base, found.tuned, found.checkpoints, found.coverage) == ("", (), (), ())
    (log,) = found.rollouts
    assert (log.trainer, log.steps, log.first_step, log.last_step) == ("ckptaudit", 20, 1, 20)
    assert {v.subject for v in found.verdicts} == {"rollouts"}
    suite = ElementTree.parse(pytester.path / "j.xml").getroot()[0]
    properties = [(p.get("name"), p.get("value")) for p in suite.iter("property")]
    assert ("judged", "rollouts alone, no weights") in properties
    assert ALONE in markdown(found)
    page = render_html(found)
    assert "Gate open for the rollouts alone: no weights were judged" in page
    assert '<section id="map" aria-labelledby="map-title" hidden>' in page


def test_a_check_that_could_not_be_judged_names_what_would_record_it() -> None:
    (log,) = audit(rollouts=RUNS / "healthy").rollouts
    reasons = {left.reason: left.checks for left in log.unjudged}
    assert reasons["declare max_staleness in [rollouts]"] == ("staleness-as-declared",)
    assert "curves-finite" in reasons["needs scalars= PATH"]
    assert log.judged == log.checks - sum(map(len, reasons.values()))


def test_a_broken_log_closes_the_gate(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest(f"--audit-rollouts={RUNS / 'mixed-groups'}")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["gate CLOSED, worst: groups-of-one-prompt at rollouts, *"])


def test_the_program_takes_a_log_alone(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "ckptaudit", "audit", "--audit-rollouts", str(RUNS / "healthy"), "-q"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ALONE in done.stdout


def test_curves_belong_to_the_one_log(pytester: pytest.Pytester) -> None:
    options = [f"--audit-rollouts={RUNS / 'healthy'}", f"--audit-scalars={RUNS / 'healthy'}"]
    result = pytester.runpytest(*options, "-k", "curves-finite")
    result.assert_outcomes(passed=1)


def test_several_logs_are_a_run_each(pytester: pytest.Pytester) -> None:
    names = ("healthy", "mixed-groups")
    result = pytester.runpytest(*(f"--audit-rollouts={RUNS / name}" for name in names), "-k", "one-prompt")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["gate CLOSED for mixed-groups, worst: groups-of-one-prompt at rollouts*"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs side by side, and a file that is no log."""
    runs = tmp_path_factory.mktemp("runs")
    for name in ("healthy", "stale-engine"):
        shutil.copytree(RUNS / name, runs / name)
    runs.joinpath("README.md").write_text("our runs")
    return runs


@pytest.mark.parametrize("meant", ["@all", "/*e*"])
def test_a_folder_or_pattern_names_several(folder: Path, meant: str) -> None:
    found = audit(rollouts=f"{folder}{meant}")
    assert [Path(log.path).name for log in found.rollouts] == ["healthy", "stale-engine"]
    assert {v.tuned for v in found.verdicts} == {log.path for log in found.rollouts}


def test_a_folder_that_cannot_be_read_is_not_left_out(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "runs")
    tmp_path.joinpath("runs", "lost").mkdir()
    with pytest.raises(CkptAuditError, match=r"lost: no log of rollouts that is known"):
        audit(rollouts=f"{tmp_path / 'runs'}@all")


PAIR = {"base": FIXTURES / "base", "tuned": FIXTURES / "rlvr-gentle"}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "nothing to audit"),
        ({"base": FIXTURES / "base"}, r"tuned= PATH is missing"),
        ({"scalars": RUNS / "healthy"}, r"give rollouts= PATH"),
        ({"rollouts": "nowhere"}, r"rollouts= nowhere: no such file or folder"),
        ({"rollouts": "nowhere*"}, "nothing matches"),
        ({"rollouts": "nowhere@all"}, "no such directory"),
        ({"rollouts": [RUNS / "healthy", RUNS / "healthy"]}, "named twice"),
        (
            {"rollouts": [RUNS / "healthy", RUNS / "collapse"], "scalars": RUNS / "healthy"},
            "1 given for 2 logs of rollouts",
        ),
        ({"rollouts": [RUNS / "healthy", RUNS / "collapse"], **PAIR}, "2 logs were given for 1 training run"),
        ({"rollouts": RUNS / "healthy", "profile": "sft"}, r"profile= sft: judges weights"),
        ({"rollouts": RUNS / "healthy", "inputs": {"fisher": "f"}}, r"fisher= is judged beside a pair"),
    ],
)
def test_what_means_nothing_is_refused(asked: dict[str, object], words: str) -> None:
    with pytest.raises(CkptAuditError, match=words):
        audit(**asked)  # type: ignore[arg-type]


def test_check_files_of_weights_are_refused(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest("rlvr.toml", f"--audit-rollouts={RUNS / 'healthy'}")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*rlvr.toml: checks judge a pair of checkpoints; give --base PATH*"])


def test_one_configuration_serves_audits_with_and_without_a_pair(tmp_path: Path) -> None:
    settings = tmp_path / "ckptaudit.toml"
    settings.write_text(
        'profile = "release"\n'
        '[[override]]\ncheck = "spectral-drift"\nat_most = 0.5\nroles = ["q_proj"]\nreason = "ours"\n'
        '[[override]]\ncheck = "mismatch-k3"\nat_most = 1e-6\nreason = "none at all"\n'
    )
    found = audit(rollouts=RUNS / "stale-engine", config=load_config(settings))
    verdict = next(v for v in found.verdicts if v.check == "mismatch-k3")
    assert (verdict.outcome, verdict.limit) == ("failed", 1e-6)
    settings.write_text('[[override]]\ncheck = "mismatch-k33"\nat_most = 1\nreason = "a slip"\n')
    with pytest.raises(CkptAuditError, match="did you mean mismatch-k3"):
        audit(rollouts=RUNS / "healthy", config=load_config(settings))


def test_a_log_has_no_say_in_how_it_is_judged(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    log = pytester.path / "run"
    shutil.copytree(RUNS / "mixed-groups", log)
    log.joinpath("ckptaudit.toml").write_text(
        '[[override]]\ncheck = "groups-of-one-prompt"\nseverity = "info"\nreason = "x"\n'
    )
    monkeypatch.chdir(log)
    result = pytester.runpytest(f"--audit-rollouts={log}")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*ckptaudit.toml: lies within the log*"])


def test_a_released_log_is_compared_with(tmp_path: Path) -> None:
    write_json(audit(rollouts=RUNS / "healthy"), tmp_path / "released.json")
    found = audit(rollouts=RUNS / "stale-engine", against=tmp_path / "released.json")
    worse = next(v for v in found.verdicts if v.check == "mismatch-k3-median")
    assert worse.outcome == "failed"
    assert "worse than the released" in worse.reason
    assert json.loads((tmp_path / "released.json").read_bytes())["tuned"] == []


def test_a_pattern_that_the_shell_has_written_out_is_refused(pytester: pytest.Pytester, folder: Path) -> None:
    shutil.copytree(folder, pytester.path / "runs")
    result = pytester.runpytest("--audit-rollouts=runs/healthy", "runs/stale-engine")
    assert result.ret == 4
    result.stderr.fnmatch_lines(
        ["*stale-engine: a log of rollouts where check files are named; give --audit-rollouts*"]
    )


def test_nothing_in_a_log_is_imported(tmp_path: Path) -> None:
    log = tmp_path / "run"
    shutil.copytree(RUNS / "healthy", log)
    mark = tmp_path / "mark"
    log.joinpath("pytest.ini").write_text("[pytest]\naddopts = -p imported\n")
    for name in ("imported.py", "conftest.py"):
        log.joinpath(name).write_text(f"open({str(mark)!r}, 'w').close()\n")
    for words, place in (("audit --audit-rollouts run", tmp_path), ("audit --audit-rollouts .", log)):
        command = [sys.executable, "-m", "ckptaudit", *words.split(), "-q", "-k", "one-prompt"]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert not mark.exists()
