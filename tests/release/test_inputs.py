"""What was judged beside the weights is part of the statement: logs of rollouts, curves, probes."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptaudit.cli import main
from ckptaudit.pipeline.api import audit
from ckptaudit.results.json_io import write_json
from tests.conftest import package
from tests.release.conftest import Release, new_key

PROBES = '{"text": "one and one is two"}\n{"text": "two and two is four"}\n'


@pytest.fixture(scope="module")
def judged(fixture_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its log, its curves in a folder that holds more, and probes; audited with digests."""
    package("securesystemslib")
    folder = tmp_path_factory.mktemp("judged")
    shutil.copytree(fixture_pairs / "rlvr-gentle", folder / "model")
    shutil.copytree(fixture_pairs / "rollouts" / "healthy", folder / "log")
    (folder / "probes.jsonl").write_text(PROBES)
    (folder / "log" / "notes.txt").write_text("no part of the log")
    result = audit(
        fixture_pairs / "base",
        folder / "model",
        inputs={"probes": folder / "probes.jsonl"},
        rollouts=folder / "log",
        scalars=folder / "log",
        complete=False,
        cache="off",
        digest=True,
    )
    write_json(result, folder / "audit.json")
    new_key(folder / "key.pem", folder / "key.pub")
    return folder


@pytest.fixture
def released(judged: Path, tmp_path: Path) -> Release:
    """A copy of everything; the result names the place where it was audited, which is gone here."""
    text = (judged / "audit.json").read_text().replace(str(judged), str(tmp_path))
    shutil.copytree(judged, tmp_path, dirs_exist_ok=True)
    (tmp_path / "audit.json").write_text(text)
    names = ("model", "key.pem", "key.pub", "audit.json", "audit.intoto.json")
    return Release(tmp_path, *(tmp_path / name for name in names))


def points(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Each point's answer by its name."""
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()[:-1]]
    return {line[1]: line[0] for line in lines}


def test_the_statement_names_logs_curves_and_probes_by_their_digests(released: Release) -> None:
    assert released.attest() == 0
    told = json.loads(base64.b64decode(json.loads(released.attestation.read_text())["payload"]))
    inputs = {record["name"]: record for record in told["predicate"]["ckptauditAudit"]["inputs"]}
    assert [file["name"] for file in inputs["rollouts"]["files"]] == ["rollouts.parquet"]
    assert [file["name"] for file in inputs["scalars"]["files"]] == ["trainer_state.json"]
    assert inputs["probes"]["files"] == [{"name": ".", "sha256": hashlib.sha256(PROBES.encode()).hexdigest()}]
    content = hashlib.sha256((released.folder / "log" / "rollouts.parquet").read_bytes())
    assert inputs["rollouts"]["digest"] == hashlib.sha256(content.digest()).hexdigest()
    named = {entry["name"]: entry for entry in told["predicate"]["configuration"]}
    assert named["rollouts"]["digest"] == {"sha256": inputs["rollouts"]["digest"]}
    assert named["probes"]["annotations"] == {"path": str(released.folder / "probes.jsonl")}


CHANGES: dict[str, Callable[[Path], object]] = {
    "rollouts": lambda folder: shutil.copy(
        folder / "log" / "rollouts.parquet", folder / "log" / "rollouts-2.parquet"
    ),
    "scalars": lambda folder: (folder / "log" / "trainer_state.json").write_text('{"log_history": []}'),
    "probes": lambda folder: (folder / "probes.jsonl").write_text(PROBES.upper()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_what_was_judged_is_noticed(
    name: str, released: Release, capsys: pytest.CaptureFixture[str]
) -> None:
    released.attest()
    assert released.verify("--min-coverage", 0) == 0
    assert set(points(capsys).values()) >= {"ok"}
    CHANGES[name](released.folder)
    assert released.verify("--min-coverage", 0) == 1
    assert points(capsys)[name] == "FAILED"
    assert released.attest() == 4, "nor is it attested once more"
    assert f"--{name}" in capsys.readouterr().err


def test_a_file_beside_the_log_is_no_part_of_it(released: Release) -> None:
    released.attest()
    (released.folder / "log" / "notes.txt").write_text("other words")
    assert released.verify("--min-coverage", 0) == 0


def test_a_log_that_lies_elsewhere_is_named(released: Release, capsys: pytest.CaptureFixture[str]) -> None:
    released.attest()
    moved = (released.folder / "log").rename(released.folder / "moved")
    capsys.readouterr()
    assert released.verify("--min-coverage", 0) == 0
    assert "is not here, so it was not looked at; --rollouts says where it lies" in capsys.readouterr().out
    given = ("--min-coverage", 0, "--rollouts", moved, "--scalars", moved)
    assert released.verify(*given) == 0
    assert "1 file, sha256" in capsys.readouterr().out
    (moved / "rollouts.parquet").rename(moved / "renamed.parquet")
    assert released.verify(*given) == 1


def test_more_logs_than_were_judged_are_refused(released: Release, capsys: pytest.CaptureFixture[str]) -> None:
    released.attest()
    log = released.folder / "log"
    assert released.verify("--min-coverage", 0, "--rollouts", log, "--rollouts", log) == 4
    assert "not as many as are given" in capsys.readouterr().err


def test_rollouts_alone_hold_no_checkpoint_to_attest(
    fixture_pairs: Path, released: Release, capsys: pytest.CaptureFixture[str]
) -> None:
    result = audit(rollouts=fixture_pairs / "rollouts" / "healthy", digest=True)
    assert [record.name for record in result.inputs] == ["rollouts", "bundled"]
    write_json(result, released.result)
    assert main(["attest", str(released.result), "--key", str(released.key)]) == 4
    assert "rollouts alone" in capsys.readouterr().err
