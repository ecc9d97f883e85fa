"""`plan`, `measure` and `collect` as commands: what they print, write and answer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ckptaudit.cli import main
from tests.conftest import FIXTURES, package

package("pyarrow")

PAIR = ["--base", str(FIXTURES / "base"), "--tuned"]


def gate(folder: Path, tuned: str, *more: str) -> int:
    command = [sys.executable, "-P", "-m", "ckptaudit", "audit", *PAIR, str(FIXTURES / tuned), *more, "-q"]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode


def in_two_shards(folder: Path, tuned: str, *more: str, parts: int = 2) -> int:
    plan = str(folder / "plan.json")
    assert main(["plan", *PAIR, str(FIXTURES / tuned), "-o", plan]) == 0
    paths = [str(folder / f"part-{i}.parquet") for i in range(2)]
    for i in range(parts):
        assert main(["measure", plan, "--shard", f"{i}/2", "-o", paths[i]]) == 0
    return main(["collect", plan, *paths[:parts], *more])


def result(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    for name in ("started", "seconds", "command"):
        found["about"].pop(name)
    return found


@pytest.mark.parametrize(("tuned", "code"), [("rlvr-gentle", 0), ("sft", 1)])
def test_the_answer_and_the_files_are_those_of_the_gate(tmp_path: Path, tuned: str, code: int) -> None:
    files = {name: (str(tmp_path / f"{name}.json"), str(tmp_path / f"{name}.xml")) for name in ("one", "two")}

    def reports(name: str) -> list[str]:
        json_file, xml = files[name]
        return ["--audit-json", json_file, "--junitxml", xml]

    assert gate(tmp_path, tuned, *reports("one")) == code
    assert in_two_shards(tmp_path, tuned, *reports("two")) == code
    assert json.dumps(result(tmp_path / "one.json")) == json.dumps(result(tmp_path / "two.json"))
    assert cases(tmp_path / "one.xml") == cases(tmp_path / "two.xml")


def cases(path: Path) -> list[tuple[str | None, list[str]]]:
    """Names and endings of the test cases of a JUnit file."""
    from lxml import etree

    found = etree.parse(str(path)).iter("testcase")
    endings = ("failure", "error", "skipped")
    return [(case.get("name"), [child.tag for child in case if child.tag in endings]) for case in found]


def test_the_page_is_written_from_parts_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert in_two_shards(tmp_path, "rlvr-gentle", "--audit-html", str(tmp_path / "page.html")) == 0
    assert "spectral-drift" in (tmp_path / "page.html").read_text()
    assert "the page to look at is in" in capsys.readouterr().out


def test_a_missing_part_shuts_the_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert in_two_shards(tmp_path, "rlvr-gentle", parts=1) == 1
    assert "the part of shard 1/2 is missing" in " ".join(capsys.readouterr().out.split())


def test_planning_reads_headers_alone_and_says_what_it_comes_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "plan.json"
    assert main(["plan", *PAIR, str(FIXTURES / "sft"), "-o", str(output)]) == 0
    said = capsys.readouterr().out
    assert "51 tensors" in said
    assert json.loads(output.read_bytes())["digest"] in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plan", "--base", "b", "-o", "p"], "--tuned PATH is missing"),
        (["plan", *PAIR, "nowhere", "-o", "p"], "nowhere"),
        (["plan", *PAIR, str(FIXTURES / "sft"), "--audit-profile", "odd", "-o", "p"], "--audit-profile odd"),
        (["plan", *PAIR, str(FIXTURES / "sft"), "checks.py", "-o", "p"], "no file of checks"),
        (["plan", *PAIR, str(FIXTURES / "sft"), "-o", "/dev/null"], "no file can be written there"),
        (["measure", "plan.json", "--shard", "2/2", "-o", "p"], "counted from 0, so 0/2 to 1/2"),
        (["measure", "plan.json", "--shard", "0/2", "-o", "p"], "plan.json: cannot be read"),
        (["collect", "plan.json"], "plan.json: cannot be read"),
    ],
)
def test_bad_requests_end_in_one_line(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 4
    error = capsys.readouterr().err
    assert error.startswith("ERROR: ")
    assert error.count("\n") == 1
    assert said in error


def test_what_is_read_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, part = str(tmp_path / "plan.json"), str(tmp_path / "part.parquet")
    assert main(["plan", *PAIR, str(FIXTURES / "sft"), "-o", plan]) == 0
    before = Path(plan).read_bytes()
    assert main(["measure", plan, "--shard", "0/1", "-o", str(tmp_path / "." / "plan.json")]) == 4
    Path(part).touch()
    for more in (["--audit-json", plan], ["--audit-parquet", part], ["--junitxml", plan]):
        assert main(["collect", plan, part, *more]) == 4
        assert "is read here and would be overwritten" in capsys.readouterr().err
    assert Path(plan).read_bytes() == before


def test_a_part_that_cannot_be_written_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = str(tmp_path / "plan.json")
    assert main(["plan", *PAIR, str(FIXTURES / "sft"), "-o", plan]) == 0
    assert main(["measure", plan, "--shard", "0/1", "-o", str(tmp_path)]) == 4
    assert "no file can be written there" in capsys.readouterr().err


def test_a_pipe_is_no_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import os

    os.mkfifo(tmp_path / "plan.json")
    assert main(["collect", str(tmp_path / "plan.json")]) == 4
    assert "a pipe, not a regular file" in capsys.readouterr().err


def test_settings_beside_the_weights_are_refused(
    small_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base, tuned = small_pair
    (tuned / "ckptaudit.toml").write_text('profile = "integrity"\n')
    monkeypatch.chdir(tuned)
    assert main(["plan", "--base", str(base), "--tuned", str(tuned), "-o", "p.json"]) == 4
    assert "may not say how it is judged" in capsys.readouterr().err
    assert not (tuned / "p.json").exists()


def test_collecting_gradients_is_still_the_other_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["collect", "gradients"])
    assert "--model" in capsys.readouterr().err
