"""Every bundled check: loads alone, selects something, holds on a good pair, and is broken by its own damage."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from ckptaudit.checkpoints import Checkpoint, open_checkpoint
from ckptaudit.checks import Check, load_checks
from ckptaudit.pairing import pair_checkpoints
from ckptaudit.perturbations import PERTURBATIONS
from ckptaudit.policy import COMPANIONS, PROFILES, bundled_check_files, bundled_checks
from ckptaudit.series_damages import SERIES_DAMAGES
from ckptaudit.session import AuditSession, Request, Run
from ckptaudit.verdict import Verdict

GOOD = {"rlvr.toml": "rlvr-gentle", "sft.toml": "sft", "integrity.toml": "rlvr-gentle"}

EVERY = [
    pytest.param(path, check, id=f"{path.stem}-{check.id}")
    for path in bundled_check_files()
    for check in load_checks(path).checks
]
# What compares runs is tried on several of them, in test_series_checks.py.
CASES = [case for case in EVERY if case.values[1].over is None]


def verdicts(check: Check, base: Path, tuned: Path, damage: str | None = None) -> list[Verdict]:
    session = AuditSession(str(base), [str(tuned)])
    if damage is not None:
        broken: Checkpoint = PERTURBATIONS[damage](open_checkpoint(base), open_checkpoint(tuned))
        session.runs = (Run("", str(tuned), pair_checkpoints(open_checkpoint(base), broken)),)
    requests = [Request(check, session.runs[0], s) for s in subjects(session, check)]
    session.expect(requests)
    return [session.verdict(request) for request in requests]


def subjects(session: AuditSession, check: Check) -> list[str]:
    from ckptaudit.checks import CheckFile

    return [r.subject for r in session.requests(CheckFile(Path("one.toml"), (check,)))]


@pytest.mark.parametrize(("path", "check"), CASES)
def test_holds_on_the_good_pair_and_selects_something(path: Path, check: Check, fixture_pairs: Path) -> None:
    given = verdicts(check, fixture_pairs / "base", fixture_pairs / GOOD[path.name])

    assert given
    assert {v.outcome for v in given} == {"passed"}, given


@pytest.mark.parametrize(("path", "check"), CASES)
def test_is_broken_by_its_own_damage(path: Path, check: Check, fixture_pairs: Path) -> None:
    given = verdicts(check, fixture_pairs / "base", fixture_pairs / GOOD[path.name], check.breaks_when)

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
    assert used == {*PERTURBATIONS, *SERIES_DAMAGES}


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
