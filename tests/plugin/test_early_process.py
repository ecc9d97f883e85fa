"""A second process: started before torch is loaded where it saves time, never elsewhere, and never left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ckptaudit import metrics
from ckptaudit.measurement.process_workers import start_process
from ckptaudit.plugin import early_process
from tests.conftest import package


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes that runs in this one start; every pair has enough matrices, and no card measures."""
    found: list[subprocess.Popen[bytes]] = []

    def noted(*, is_quiet: bool) -> subprocess.Popen[bytes]:
        found.append(start_process(is_quiet=is_quiet))
        return found[-1]

    monkeypatch.setattr(early_process, "start_process", noted)
    monkeypatch.setattr(early_process, "LEAST_MATRICES", 0)
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
    monkeypatch.setattr(early_process, "LEAST_MATRICES", 500)
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
    ("name", "value"), [("OMP_NUM_THREADS", "1"), ("frozen", "1"), ("card", "1"), ("few", "1")], ids=str
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
    if name == "few":
        monkeypatch.setattr(early_process, "LEAST_MATRICES", 500)
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

    with_process = run(pytester, small_pair)
    assert len(started) == 1
    monkeypatch.setattr(early_process, "start_process", refused)
    assert run(pytester, small_pair).ret == with_process.ret


def written(file: Path, *shapes: tuple[int, ...]) -> Path:
    file.parent.mkdir(exist_ok=True)
    save_file({str(i): torch.zeros(shape, dtype=torch.float8_e4m3fn) for i, shape in enumerate(shapes)}, file)
    return file


def test_a_matrix_counts_from_the_side_on_from_which_it_is_measured_by_itself() -> None:
    assert early_process.SHORT_SIDE == metrics.SHORT_SIDE


def test_matrices_are_counted_in_all_files_and_stacks(tmp_path: Path) -> None:
    written(tmp_path / "a.safetensors", (250, 128, 128), (1000,), (127, 2000), (300, 127, 127))
    assert not early_process._has_many_matrices(str(tmp_path))
    written(tmp_path / "b.safetensors", (125, 2, 128, 130))
    assert early_process._has_many_matrices(str(tmp_path))
    assert not early_process._has_many_matrices(str(tmp_path / "b.safetensors"))


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 8, b"\x02" + bytes(7) + b"[]", b"\x04" + bytes(7) + b'{"a"', b"\x05" + bytes(7) + b'"abc"'],
)
def test_what_is_no_such_file_has_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert not early_process._has_many_matrices(str(tmp_path))


@pytest.mark.parametrize(
    "header", ['{"a":1}', '{"a":{"shape":["x",128,128]}}', '{"a":{"shape":128}}', "[" * 99_999]
)
def test_a_strange_header_has_none(header: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode())
    assert not early_process._has_many_matrices(str(tmp_path))


@pytest.mark.parametrize("name", ["organisation/model", "s3://bucket/model", "\0", ""])
def test_what_is_not_here_has_none(name: str) -> None:
    assert not early_process._has_many_matrices(name)
