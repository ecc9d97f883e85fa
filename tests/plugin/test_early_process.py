"""A second process: started before torch is loaded where it saves time, never elsewhere, and never left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ckptaudit.measurement.process_workers import start_process
from ckptaudit.plugin import early_process
from tests.conftest import package


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes that runs in this one start; every pair is large enough, and no card measures."""
    found: list[subprocess.Popen[bytes]] = []

    def noted(module: str, *, is_quiet: bool) -> subprocess.Popen[bytes]:
        found.append(start_process(module, is_quiet=is_quiet))
        return found[-1]

    monkeypatch.setattr(early_process, "start_process", noted)
    monkeypatch.setattr(early_process, "LEAST_BYTES", 1)
    monkeypatch.setattr(early_process, "NVIDIA", Path("/dev/nothing"))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    return found


def run(pytester: pytest.Pytester, pair: tuple[Path, Path], *more: str) -> Any:
    sides = ("--base", str(pair[0]), "--tuned", str(pair[1]))
    return pytester.runpytest_inprocess(*sides, "--audit-cache=off", *more)


def measurements(path: Path) -> Any:
    found = json.loads(path.read_text())
    return found["measurements"], found["verdicts"]


def test_both_give_the_result_of_one(
    pytester: pytest.Pytester,
    small_pair: tuple[Path, Path],
    started: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = run(pytester, small_pair, "--audit-json=both.json")
    assert [process.poll() is None for process in started] == [False]
    monkeypatch.setattr(early_process, "LEAST_BYTES", 2**40)
    one = run(pytester, small_pair, "--audit-json=one.json")
    assert len(started) == 1
    assert both.ret == one.ret
    assert measurements(pytester.path / "both.json") == measurements(pytester.path / "one.json")


@pytest.mark.parametrize(
    "more",
    [("-x",), ("-n", "1"), ("--audit-workers", "1"), ("--collect-only",), ("--audit-device", "cuda:77")],
    ids=" ".join,
)
def test_there_is_none_where_it_would_be_of_no_use(
    more: tuple[str, ...],
    pytester: pytest.Pytester,
    small_pair: tuple[Path, Path],
    started: list[subprocess.Popen[bytes]],
) -> None:
    if more[0] == "-n":
        package("xdist")
    run(pytester, small_pair, "-k", "update-size", *more)
    assert started == []


@pytest.mark.parametrize(
    ("name", "value"), [("OMP_NUM_THREADS", "1"), ("frozen", "1"), ("card", "1"), ("size", "1")], ids=str
)
def test_there_is_none_where_nothing_could_come_of_it(
    name: str,
    value: str,
    pytester: pytest.Pytester,
    small_pair: tuple[Path, Path],
    started: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(name, value)
    if name == "frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    if name == "card":
        monkeypatch.setattr(early_process, "NVIDIA", Path("/dev/null"))
    if name == "size":
        monkeypatch.setattr(early_process, "LEAST_BYTES", 2**40)
    run(pytester, small_pair, "-k", "update-size")
    assert started == []


def test_a_request_that_is_refused_leaves_none_behind(
    pytester: pytest.Pytester, small_pair: tuple[Path, Path], started: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    refused = run(pytester, (small_pair[0], tmp_path / "missing"))
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    assert [process.poll() is None for process in started] == [False]


def test_where_no_process_can_be_had_the_gate_measures_alone(
    pytester: pytest.Pytester,
    small_pair: tuple[Path, Path],
    started: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(early_process, "start_process", refused)
    assert run(pytester, small_pair).ret in (0, 1)


def test_a_size_is_of_the_files_of_a_folder_or_of_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "b").write_bytes(b"45")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "c").write_bytes(b"67")
    assert early_process._size(str(tmp_path)) == 5
    assert early_process._size(str(tmp_path / "a")) == 3
    assert early_process._size("organisation/model") == early_process._size("s3://bucket/model") == 0
    assert early_process._size("\0") == 0
