"""Rollouts beside a pair: which runs open the gate, what joins which profile, and what ends the run."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from ckptaudit.judging.check_files import load_checks
from ckptaudit.judging.checks import Check
from ckptaudit.judging.profiles import bundled_checks
from ckptaudit.options import AuditOptions
from ckptaudit.pipeline import open_audit
from ckptaudit.pipeline.proving import prove
from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.table import write_table
from tests.rollouts.simulated import run_rows, table_of

FIXTURES = Path(__file__).parents[2] / "fixtures"
RUNS = FIXTURES / "rollouts"
FILE = load_checks(bundled_checks() / "rollouts.toml")
FACTS = {
    "group_size": 8, "advantage": "trl", "max_staleness": 0, "clip_low": 0.2, "clip_high": 0.2,
}  # fmt: skip


@pytest.fixture
def pair(pytester: pytest.Pytester) -> list[str]:
    """The options of a good pair, from a folder whose configuration declares the facts."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in {**FACTS, "max_response_length": 12}.items()]
    pytester.path.joinpath("ckptaudit.toml").write_text("\n".join(["[rollouts]", *lines]))
    return [f"--base={FIXTURES / 'base'}", f"--tuned={FIXTURES / 'rlvr-gentle'}", "--audit-cache=off"]


def log(run: str) -> list[str]:
    return [f"--audit-rollouts={RUNS / run}", f"--audit-scalars={RUNS / run}", "--audit-profile=rollouts"]


def test_a_healthy_run_opens_the_gate(pytester: pytest.Pytester, pair: list[str]) -> None:
    result = pytester.runpytest(*pair, *log("healthy"))
    assert result.ret == 0
    result.stdout.fnmatch_lines(["warning: reward-not-by-length*", "gate open"])


def test_mixed_groups_close_it_and_are_named(pytester: pytest.Pytester, pair: list[str]) -> None:
    result = pytester.runpytest(*pair, *log("mixed-groups"), "--audit-json=a.json")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["steps *first at step 1, beyond the limit at 20 of 20 steps*"])
    verdicts = json.loads((pytester.path / "a.json").read_text())["verdicts"]
    failed = [v for v in verdicts if v["outcome"] == "failed" and v["severity"] == "gate"]
    assert [(v["check"], v["subject"]) for v in failed] == [("groups-of-one-prompt", "rollouts")]
    assert failed[0]["ranking"][0]["tensor"].startswith("step ")


def test_rollouts_join_the_profile_where_they_are_given(pytester: pytest.Pytester, pair: list[str]) -> None:
    alone = pytester.runpytest(*pair, "--audit-profile=integrity", "--collect-only", "-q")
    assert "rollouts.toml" not in str(alone.stdout)
    beside = pytester.runpytest(
        *pair, f"--audit-rollouts={RUNS / 'healthy'}", "--audit-profile=integrity", "--collect-only", "-q"
    )
    assert "rollouts.toml::mismatch-k3[rollouts]" in str(beside.stdout)


def test_without_a_log_its_checks_are_refused_and_say_what_they_need(
    pytester: pytest.Pytester, pair: list[str]
) -> None:
    result = pytester.runpytest(*pair, "--audit-profile=rollouts")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: --audit-profile rollouts: *needs --audit-rollouts PATH*"])


def test_without_curves_only_their_checks_are_skipped(pytester: pytest.Pytester, pair: list[str]) -> None:
    result = pytester.runpytest(
        *pair,
        f"--audit-rollouts={RUNS / 'healthy'}",
        "--audit-profile=rollouts",
        "-rs",
        "-k",
        "curves or one-prompt",
    )
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["*needs --audit-scalars PATH"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--audit-rollouts=nowhere"], "--audit-rollouts nowhere: no such file or folder."),
        ([f"--audit-rollouts={FIXTURES / 'base'}"], "no log of rollouts that is known"),
        ([f"--audit-scalars={RUNS / 'healthy'}"], "give --audit-rollouts PATH"),
        (
            [f"--audit-rollouts={RUNS / 'healthy'}", f"--audit-scalars={FIXTURES / 'base'}"],
            "no scalars that are known",
        ),
    ],
)
def test_what_cannot_be_opened_ends_the_run(
    pytester: pytest.Pytester, pair: list[str], options: list[str], words: str
) -> None:
    result = pytester.runpytest(*pair, *options)
    assert result.ret == 4
    (line,) = [line for line in result.errlines if line]
    assert words in line


def test_facts_are_read_strictly(pytester: pytest.Pytester, pair: list[str]) -> None:
    pytester.path.joinpath("ckptaudit.toml").write_text("[rollouts]\ngroupsize = 8\n")
    result = pytester.runpytest(*pair)
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*unknown key groupsize; did you mean group_size?*"])


def test_one_step_can_be_waived(pytester: pytest.Pytester, pair: list[str]) -> None:
    with pytester.path.joinpath("ckptaudit.toml").open("a") as settings:
        settings.write(
            '\n[[waiver]]\ncheck = "groups-of-one-prompt"\nsubject = "step *"\n'
            'until = 2999-01-31\nreason = "known"\n'
        )
    result = pytester.runpytest(*pair, *log("mixed-groups"), "-k", "one-prompt or finite")
    assert result.ret == 0
    assert result.parseoutcomes()["xfailed"] == 1


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory, healthy: pa.Table) -> dict[str, Path]:
    """The simulated run and one of many short samples, as files, with a curve beside them."""
    folder = tmp_path_factory.mktemp("logs")
    wide = table_of(run_rows(steps=2, groups=40, length=10, seed=1))
    for name, table in (("healthy", healthy), ("wide", wide)):
        write_table(folder / f"{name}.parquet", iter(table.to_batches()))
    curve = [{"step": step, "grad_norm": 1.0 + step % 3 / 10, "reward": 0.5} for step in range(12)]
    (folder / "curves.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in curve))
    return {path.stem: path for path in folder.iterdir()}


@pytest.mark.parametrize("check", FILE.checks, ids=lambda check: check.id)
def test_the_gate_itself_is_broken_by_each_damage(check: Check, logs: dict[str, Path]) -> None:
    given = {
        "rollouts": logs["wide" if check.id == "sequence-weights-tail" else "healthy"],
        "scalars": logs["curves"],
    }
    options = AuditOptions(
        base=str(FIXTURES / "base"),
        tuned=(str(FIXTURES / "rlvr-gentle"),),
        auxiliary={name: str(path) for name, path in given.items()},
        complete=False,
    )
    proof = prove(open_audit(options, RunFacts(**FACTS)), check, FILE)  # type: ignore[arg-type]
    if proof.needs:
        assert check.id in NOT_THERE, proof.needs
        return
    assert {v.outcome for v in proof.intact} == {"passed"} or check.id == "curves-match-rollouts"
    assert proof.breaks, proof.damaged


NOT_THERE = {
    "clip-acts-on-stale-samples",
    "clip-acts-on-both-sides",
    "reference-priced-in-its-group",
    "siblings-share-their-prefix",
    "checkpoints-covered",
}
"""What the simulated run has no sample of, or no checkpoint for."""
