"""Where a file is expected, only a regular file is read: nothing is waited for, nothing goes on for ever."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ckptaudit.behavior.probes import read_probes
from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.errors import CkptAuditError, ConfigError
from ckptaudit.foreign_files import is_regular, open_regular, read_regular
from ckptaudit.foreign_files.toml import read_toml
from ckptaudit.judging.check_files import holds_checks, load_checks
from ckptaudit.judging.config import find_config, load_config
from ckptaudit.results.json_io import read_json

READERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "checks": (load_checks, "mine.toml"),
    "configuration": (load_config, "ckptaudit.toml"),
    "result": (read_json, "audit.json"),
    "probes": (read_probes, "probes.jsonl"),
    "safetensors": (open_checkpoint, "model.safetensors"),
    "torch": (open_checkpoint, "model.pt"),
    "index": (open_checkpoint, "model.safetensors.index.json"),
}


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def stretched(path: Path) -> Path:
    path.touch()
    os.truncate(path, 2**40)
    return path


def link(target: str) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.symlink_to(target)
        return path

    return make


def listening(path: Path) -> Path:
    # The name of a socket has at most a hundred characters.
    here = Path.cwd()
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(here)
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def renamed(name: str) -> Callable[[Path], Path]:
    return lambda path: path.with_name(name + path.name)


def filled(content: bytes) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return make


PLACES: dict[str, Callable[[Path], Path]] = {
    "a pipe": pipe,
    "an endless device": link("/dev/zero"),
    "a terminal": link("/dev/tty"),
    "a process's own descriptors": link("/proc/self/fd/0"),
    "a socket": listening,
    "a directory": folder,
    "a link to itself": lambda path: link(str(path))(path),
    "nothing": lambda path: path,
    "300 characters": renamed("a" * 300),
    "a path of 5,000 characters": lambda path: path.parent.joinpath(*["a" * 100] * 50) / path.name,
    "a NUL": renamed("a\0b"),
    "bytes that are not UTF-8 in its name": renamed("a\udcffb"),
    "a terminal's commands in its name": renamed("\x1b[2J\n::error::x"),
    "bytes that are not UTF-8": filled(b"\xff\xfe\x00a"),
    "NULs": filled(bytes(1000)),
    "a lone surrogate": filled(b'a = "\xed\xa0\x80"'),
    "nothing in it": filled(b""),
    "a terabyte": stretched,
}


@pytest.fixture(autouse=True)
def _alarm() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    signal.alarm(15)
    yield
    signal.alarm(0)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_refuses_it_in_one_line(reader, place, tmp_path):
    read, name = READERS[reader]
    path = PLACES[place](tmp_path / name)
    if reader == "configuration" and place == "nothing in it":
        read(path)  # an empty configuration says nothing, and that is allowed
        return
    with pytest.raises(CkptAuditError) as caught:
        read(path)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 7000
    assert not message.lstrip().startswith("::")


@pytest.mark.parametrize("place", PLACES)
def test_looking_for_files_that_are_ours_raises_nothing(place, tmp_path):
    path = PLACES[place](tmp_path / "pyproject.toml")
    assert not holds_checks(path)
    assert find_config([path.parent, path]) is None


@pytest.mark.parametrize("place", PLACES)
def test_the_opener_raises_oserror_with_a_reason(place, tmp_path):
    path = PLACES[place](tmp_path / "file")
    if is_regular(path):
        with open_regular(path) as file:
            assert file.read(1) == path.read_bytes()[:1] if path.stat().st_size < 2**30 else True
        return
    with pytest.raises(OSError, match=r".") as caught:
        read_regular(path, 100)
    assert caught.value.strerror


def test_no_more_is_read_than_the_limit(tmp_path):
    (tmp_path / "file").write_bytes(bytes(101))
    assert read_regular(tmp_path / "file", 101) == bytes(101)
    with pytest.raises(OSError, match="101 bytes, more than the 100 that are read"):
        read_regular(tmp_path / "file", 100)


def test_a_dotted_key_of_a_hundred_thousand_parts_is_refused_at_once(tmp_path):
    """The standard library's parser takes time quadratic in them: a minute for this one."""
    path = filled(b"a" + b".a" * 100_000 + b" = 1")(tmp_path / "a.toml")
    with pytest.raises(ConfigError, match="more than 200 dots in line 1"):
        read_toml(path, "configuration", ConfigError)
    assert holds_checks(path) is False


@pytest.mark.parametrize("content", ["a = " + "[" * 100_000, "a = " + "{b=" * 100_000, "[" + "a." * 150 + "b]\n"])
def test_nested_toml_ends(content, tmp_path):
    path = filled(content.encode())(tmp_path / "a.toml")
    with pytest.raises(ConfigError):
        load_config(path)
