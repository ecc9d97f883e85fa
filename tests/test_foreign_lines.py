"""Lines of files from elsewhere: numbered as an editor does, bounded, and of regular files alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ckptaudit.behavior.dataset_files import dataset_rows
from ckptaudit.errors import ProbeError, RolloutError
from ckptaudit.foreign_files.lines import LongLineError, lines_of
from ckptaudit.rollouts import lines as log
from ckptaudit.rollouts.lines import json_lines, json_lines_in_order
from ckptaudit.rollouts.scalars import read_scalars


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_blank_lines_are_counted_and_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "a", b"one\n\n \t\r\nfour\r\nfive")
    found = [(line.number, line.content) for line in lines_of(path, 100)]
    assert found == [(1, b"one\n"), (4, b"four\r\n"), (5, b"five")]
    content = path.read_bytes()
    assert all(content[line.start :].startswith(line.content) for line in lines_of(path, 100))


@pytest.mark.parametrize("content", [b"", b"\n", b"\n\n  \n"])
def test_a_file_without_words_has_no_lines(content: bytes, tmp_path: Path) -> None:
    assert list(lines_of(written(tmp_path / "a", content), 10)) == []


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    text = "a\u2028b\x0cc\x85d\re\n".encode()
    assert [line.content for line in lines_of(written(tmp_path / "a", text), 100)] == [text]


def test_a_line_as_long_as_allowed_is_read_and_a_longer_one_is_not(tmp_path: Path) -> None:
    path = written(tmp_path / "a", b"x\n" + b"y" * 9 + b"\n" + b"z" * 11)
    lines = lines_of(path, 10)
    assert [next(lines).number, next(lines).number] == [1, 2]
    with pytest.raises(LongLineError, match="longer than 10 bytes") as caught:
        next(lines)
    assert caught.value.number == 3


def test_a_line_without_end_takes_no_more_memory_than_is_allowed(tmp_path: Path) -> None:
    """A hole of a terabyte, which is read up to the limit alone."""
    path = tmp_path / "a"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(LongLineError):
        list(lines_of(path, 100))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_directory_is_refused(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "a")
    with pytest.raises(OSError, match=r"not a regular file|directory"):
        list(lines_of(tmp_path / "a", 100))


# What the readers make of it.


def test_a_long_line_is_named_by_the_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.jsonl", b'{"a": 1}\n\n{"a": "' + b"x" * 90 + b'"}\n')
    monkeypatch.setattr("ckptaudit.behavior.dataset_files.MAX_LINE", 80)
    with pytest.raises(ProbeError, match=r"a\.jsonl, line 3: longer than 80 bytes\."):
        list(dataset_rows(path, ("a",)))
    assert len(list(json_lines(path, dict[str, Any]))) == 2
    with pytest.raises(RolloutError, match=r"a\.jsonl: line 3 is longer than 80 bytes\."):
        list(log.log_lines(path, 80))


def test_a_curve_of_mlflow_that_is_no_text_is_named_and_not_held(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "meta.yaml").touch()
    written(tmp_path / "metrics" / "loss", b"1 0.5 1\n2 0.4 2\n")
    assert read_scalars(tmp_path)
    with (tmp_path / "metrics" / "loss").open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(RolloutError, match="loss: line 3 is longer than 4,096 bytes"):
        read_scalars(tmp_path)


def test_lines_in_another_order_are_those_of_their_positions(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", b'\n{"a": 0}\n\n{"a": 1}\n{"a": 2}')
    assert list(json_lines_in_order(path, dict[str, int], [2, 0, 1])) == [{"a": 2}, {"a": 0}, {"a": 1}]
    with pytest.raises(RolloutError, match="has lost lines while it was read"):
        list(json_lines_in_order(path, dict[str, int], [3]))
    path = written(tmp_path / "b.jsonl", b'\n{"a": 0}\n[]\n')
    with pytest.raises(RolloutError, match="line 3 is not what this log holds"):
        list(json_lines_in_order(path, dict[str, int], [1]))
