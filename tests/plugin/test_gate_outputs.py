"""What a gate is asked to write is refused before anything is measured, and what it reads is never lost."""

from __future__ import annotations

import os
import shutil
from hashlib import sha256
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ckptaudit.results.json_io import read_json
from tests.conftest import package

TOO_LONG = "n" * 300
REPORTS = ("--audit-json", "--audit-html", "--audit-parquet", "--audit-plot", "--audit-probe-rows", "--junitxml")

Content = dict[str, str]


@pytest.fixture
def here(pytester: pytest.Pytester, fixture_pairs: Path) -> Path:
    """A folder with a pair and a log of rollouts, in which the gate is started."""
    for name, source in {"base": "base", "tuned": "rlvr-gentle", "log": "rollouts/healthy"}.items():
        shutil.copytree(fixture_pairs / source, pytester.path / name)
    return pytester.path


def content(folder: Path) -> Content:
    return {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def refused(pytester: pytest.Pytester, *words: str) -> str:
    """The one line; nothing has been measured, and nothing has changed."""
    before = content(pytester.path)
    result = pytester.runpytest(*words)
    assert result.ret == 4
    (line,) = [line for line in result.errlines if line]
    assert line.startswith("ERROR: ")
    assert "collected" not in result.stdout.str()
    assert content(pytester.path) == before
    return line


def on_pair(pytester: pytest.Pytester, *words: str) -> str:
    return refused(pytester, "--base=base", "--tuned=tuned", *words)


@pytest.mark.parametrize(
    "words",
    [
        ("--audit-json=tuned/model.safetensors",),
        ("--audit-html=base/tokenizer.json",),
        ("--junitxml=tuned/config.json",),
        ("--junitxml=link",),
        ("--audit-json=hard",),
        ("--audit-parquet=ours.toml", "ours.toml"),
        ("--audit-json=ckptaudit.toml",),
        ("--audit-json=probes.jsonl", "--audit-probes=probes.jsonl"),
        ("--audit-json=tuned/config.json", "--audit-reference=tuned"),
        ("--audit-json=log/rollouts.parquet", "--audit-rollouts=log"),
    ],
)
def test_what_is_read_is_never_overwritten(pytester: pytest.Pytester, here: Path, words: tuple[str, ...]) -> None:
    (here / "hard").hardlink_to(here / "tuned" / "model.safetensors")
    (here / "link").symlink_to("tuned/model.safetensors")
    (here / "ckptaudit.toml").write_text('profile = "integrity"\n')
    (here / "probes.jsonl").write_text('{"text": "a"}\n')
    shutil.copy(Path(__file__).parents[2] / "checks" / "artifact.toml", here / "ours.toml")
    assert "would be overwritten" in on_pair(pytester, *words)


def test_a_log_alone_is_kept_as_well(pytester: pytest.Pytester, here: Path) -> None:
    package("pyarrow")
    line = refused(pytester, "--audit-rollouts=log", "--audit-parquet=log/rollouts.parquet")
    assert "log/rollouts.parquet: is read here as part of log" in line


def test_the_released_audit_is_kept(pytester: pytest.Pytester, here: Path) -> None:
    pytester.runpytest("--base=base", "--tuned=tuned", "--audit-json=released.json", "-k", "finite")
    line = on_pair(pytester, "--audit-against=released.json", "--audit-json=./released.json")
    assert "released.json: is read here and would be overwritten" in line


def test_reports_in_the_tuned_folder_are_replaced_by_the_next_run(pytester: pytest.Pytester, here: Path) -> None:
    words = [f"--audit-json={here}/tuned/audit.json", "--junitxml=tuned/audit.xml", "--audit-html=tuned/audit.html"]
    for _ in range(2):
        result = pytester.runpytest("--base=base", "--tuned=tuned", "-k", "finite", *words)
        assert result.ret == 0
    assert read_json(here / "tuned" / "audit.json").passed


@pytest.mark.parametrize("words", [("--junitxml=./x.out",), ("--audit-html=base/../x.out",)])
def test_two_outputs_are_two_files(pytester: pytest.Pytester, here: Path, words: tuple[str, ...]) -> None:
    assert "two outputs cannot be one file" in on_pair(pytester, "--audit-json=x.out", *words)


@pytest.mark.parametrize("option", REPORTS)
@pytest.mark.parametrize(
    ("name", "why"),
    [
        (f"{TOO_LONG}.png", "File name too long"),
        ("tuned/config.json/x.png", "Not a directory"),
        ("/proc/x.png", "No such file or directory"),
        ("", "names no file"),
    ],
    ids=["too long", "below a file", "in no folder", "empty"],
)
def test_what_cannot_be_made(pytester: pytest.Pytester, here: Path, option: str, name: str, why: str) -> None:
    line = on_pair(pytester, f"{option}={name}")
    assert line.startswith(f"ERROR: {option}")
    assert why in line


@pytest.mark.parametrize("option", REPORTS[:-1])
def test_a_pipe_or_a_device_is_not_replaced(pytester: pytest.Pytester, here: Path, option: str) -> None:
    os.mkfifo(here / "pipe")
    (here / "device").symlink_to("/dev/null")
    assert "a pipe, not a regular file" in on_pair(pytester, f"{option}=pipe")
    assert "a device, not a regular file" in on_pair(pytester, f"{option}=device")
    assert (here / "pipe").is_fifo()
    assert (here / "device").is_char_device()


def test_pytest_s_own_file_may_be_a_device_as_without_an_audit(pytester: pytest.Pytester, here: Path) -> None:
    (here / "device").symlink_to("/dev/null")
    result = pytester.runpytest("--base=base", "--tuned=tuned", "-k", "finite", "--junitxml=device")
    assert result.ret == 0
    assert (here / "device").is_char_device()


def test_a_junit_file_that_cannot_be_written_in_the_end_takes_nothing_with_it(
    pytester: pytest.Pytester, here: Path
) -> None:
    pytester.makepyfile(
        in_the_way="""
        import pathlib
        def pytest_runtest_teardown():
            pathlib.Path("a.xml").mkdir(exist_ok=True)
        """
    )
    pytester.syspathinsert()
    words = ["--base=base", "--tuned=tuned", "-k", "finite", "-p", "in_the_way"]
    result = pytester.runpytest(*words, "--junitxml=a.xml", "--audit-json=a.json")
    assert result.ret == 4
    (line,) = [line for line in result.outlines if "ERROR" in line]
    assert line.startswith("ERROR: --junitxml ")
    assert "a.xml: cannot be written (Is a directory)." in line
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    assert "generated xml file" not in result.stdout.str()
    result.stdout.fnmatch_lines(
        ["passed, nothing found: finite", "every number is in a.json", "7 results: 7 passed"]
    )
    assert read_json(here / "a.json").passed


def test_a_junit_file_is_written_as_ever(pytester: pytest.Pytester, here: Path) -> None:
    result = pytester.runpytest("--base=base", "--tuned=tuned", "-k", "finite", "--junitxml=new/a.xml")
    assert result.ret == 0
    assert "generated xml file" in result.stdout.str()
    suite = ElementTree.parse(here / "new" / "a.xml").find("testsuite")
    assert suite is not None
    names = {one.get("name") for one in suite.findall("properties/property")}
    assert {"base_fingerprint", "coverage_tensors"} <= names


@pytest.mark.parametrize("factor", ["inf", "nan", "0", "-1", "0.5"])
@pytest.mark.parametrize("against", [(), ("--audit-against=released.json",)], ids=["alone", "against"])
def test_a_factor_that_would_compare_nothing(
    pytester: pytest.Pytester, here: Path, factor: str, against: tuple[str, ...]
) -> None:
    line = on_pair(pytester, f"--audit-against-factor={factor}", *against)
    assert f"--audit-against-factor {factor}: a finite number of at least 1 is required" in line
