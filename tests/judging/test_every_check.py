"""Every bundled check: loads alone, selects something, holds on a good pair, and is broken by its own damage."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import cast

import pytest
from ckptaudit.pipeline.session import AuditSession

from ckptaudit.checkpoints import Checkpoint, open_checkpoint
from ckptaudit.damages.runs import RUN_DAMAGES
from ckptaudit.damages.weights import PERTURBATIONS, damaged_inputs
from ckptaudit.judging.check_files import load_checks
from ckptaudit.judging.checks import Check
from ckptaudit.judging.plan import Request
from ckptaudit.judging.profiles import COMPANIONS, PROFILES, bundled_check_files, bundled_checks
from ckptaudit.judging.verdict import Verdict
from ckptaudit.metrics import GROUP_METRICS
from ckptaudit.pairing import pair_checkpoints
from ckptaudit.pairing.runs import Run

GOOD = {
    "rlvr.toml": "rlvr-gentle",
    "sft.toml": "sft",
    "integrity.toml": "rlvr-gentle",
    "unlearning.toml": "rlvr-gentle",
    "gist.toml": "rlvr-gentle",
    "alignguard.toml": "rlvr",
    "alignment_restoration.toml": "rlvr",
    "orthogonal_update.toml": "muon",
    "orthogonal_layer.toml": "orthogonal_layer",
    "intruders.toml": "sft",
    "pissa.toml": "pissa",
    "mode_connectivity.toml": "rlvr-gentle",
}
# What the warning is about is true of every PiSSA adapter: the good pair of this check is another adapter.
GOOD_FOR = {"pissa-fragile-under-rl": "lora"}

EVERY = [
    pytest.param(path, check, id=f"{path.stem}-{check.id}")
    for path in bundled_check_files()
    for check in load_checks(path).checks
]
# What compares runs is tried on several of them, in test_series_checks.py.
CASES = [case for case in EVERY if cast(Check, case.values[1]).over is None]


@pytest.fixture
def good(path: Path, check: Check, fixture_pairs: Path, request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """Base and tuned of which the check's claim is true: bundled, or trained for it by the fixture of that name."""
    name = GOOD_FOR.get(check.id, GOOD[path.name])
    if (fixture_pairs / name).exists():
        return fixture_pairs / "base", fixture_pairs / name
    made: tuple[Path, Path] = request.getfixturevalue(name)
    return made


def verdicts(
    check: Check, base: Path, tuned: Path, inputs: dict[str, str], damage: str | None = None
) -> list[Verdict]:
    session = AuditSession(str(base), [str(tuned)], inputs=_needed(check, inputs))
    if damage is not None:
        whole = session.runs[0].pair.tuned
        broken: Checkpoint = PERTURBATIONS[damage](open_checkpoint(base), whole, session.inputs)
        session.inputs = damaged_inputs(damage, session.inputs)
        session.runs = (Run("", str(tuned), pair_checkpoints(open_checkpoint(base), broken)),)
    requests = [Request(check, session.runs[0], s) for s in subjects(session, check)]
    session.expect(requests)
    return [session.verdict(request) for request in requests]


def _needed(check: Check, inputs: dict[str, str]) -> dict[str, str]:
    metric = GROUP_METRICS.get(check.metric)
    return {name: inputs[name] for name in metric.inputs} if metric else {}


def subjects(session: AuditSession, check: Check) -> list[str]:
    from ckptaudit.judging.check_files import CheckFile

    return [r.subject for r in session.requests(CheckFile(Path("one.toml"), (check,)))]


@pytest.mark.parametrize(("path", "check"), CASES)
def test_holds_on_the_good_pair_and_selects_something(
    path: Path, check: Check, good: tuple[Path, Path], collected_inputs: dict[str, str]
) -> None:
    given = verdicts(check, *good, collected_inputs)

    assert given
    assert {v.outcome for v in given} == {"passed"}, given


@pytest.mark.parametrize(("path", "check"), CASES)
def test_is_broken_by_its_own_damage(
    path: Path, check: Check, good: tuple[Path, Path], collected_inputs: dict[str, str]
) -> None:
    given = verdicts(check, *good, collected_inputs, check.breaks_when)

    assert "failed" in {v.outcome for v in given}, given


@pytest.mark.parametrize(("path", "check"), EVERY)
def test_loads_alone(path: Path, check: Check, tmp_path: Path) -> None:
    table = next(
        t for f in bundled_check_files() for t in tomllib.loads(f.read_text())["check"] if t["id"] == check.id
    )
    lines = [f"{key} = {_toml(value)}" for key, value in table.items()]
    alone = tmp_path / "alone.toml"
    alone.write_text("\n".join(["[[check]]", *lines]))

    assert load_checks(alone).checks[0].id == check.id


@pytest.mark.parametrize(("path", "check"), EVERY)
def test_says_where_its_limit_comes_from(path: Path, check: Check) -> None:
    assert check.source.startswith(("arXiv:", "definition:", "follows from arXiv:"))
    if not check.source.startswith("definition"):
        assert check.published
        assert check.note


def test_every_damage_breaks_some_check() -> None:
    used = {check.breaks_when for path in bundled_check_files() for check in load_checks(path).checks}
    assert used == {*PERTURBATIONS, *RUN_DAMAGES}


def test_every_bundled_file_is_a_profile_or_joins_one() -> None:
    joining = {name for files in COMPANIONS.values() for name in files.values()}
    assert {bundled_checks() / name for name in (*PROFILES.values(), *joining)} == set(bundled_check_files())


def test_supervised_run_breaks_the_rlvr_profile_on_several_checks(fixture_pairs: Path) -> None:
    session = AuditSession(str(fixture_pairs / "base"), [str(fixture_pairs / "sft")])
    requests = list(session.requests(load_checks(bundled_checks() / "rlvr.toml")))

    broken = {v.check for v in map(session.verdict, requests) if v.outcome == "failed"}

    assert {"spectral-drift", "principal-rotation-left", "principal-rotation-right", "update-sparsity"} <= broken
    assert {"update-size", "low-magnitude-overlap"} <= broken


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return (
        f"'{value}'"
        if isinstance(value, str) and "'" not in value
        else (f'"{value}"' if isinstance(value, str) else str(value))
    )
