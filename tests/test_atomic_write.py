"""A file appears complete or not at all, and nothing is left beside it."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ckptaudit.atomic_write import PART, replacing, write_bytes, write_text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with a content that must survive."""
    path = tmp_path / "report.json"
    path.write_bytes(b"before")
    return path


@pytest.fixture(params=["there already", "new"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "report.json"
    if request.param == "there already":
        path.write_bytes(b"before")
    return path


def unchanged(target: Path, names: list[str]) -> bool:
    """Whether the folder holds what it held, and the file what it held."""
    same = not target.exists() or target.read_bytes() == b"before"
    return same and [p.name for p in target.parent.iterdir()] == names


@pytest.fixture
def names(target: Path) -> list[str]:
    return [p.name for p in target.parent.iterdir()]


class TestSuccess:
    def test_the_content_takes_the_place_of_what_was_there(self, target: Path) -> None:
        write_bytes(target, b"after")
        assert target.read_bytes() == b"after"
        assert [p.name for p in target.parent.iterdir()] == [target.name]

    def test_text_is_utf_8_and_lines_end_as_written(self, target: Path) -> None:
        write_text(target, "rank ≤ 8\n")
        assert target.read_bytes() == "rank ≤ 8\n".encode()

    def test_folders_are_made(self, tmp_path: Path) -> None:
        write_bytes(tmp_path / "a" / "b" / "c", b"")
        assert (tmp_path / "a" / "b" / "c").read_bytes() == b""

    def test_a_name_as_long_as_the_file_system_allows(self, tmp_path: Path) -> None:
        write_bytes(tmp_path / ("n" * 255), b"after")
        assert (tmp_path / ("n" * 255)).read_bytes() == b"after"

    def test_until_the_block_ends_readers_see_what_was_there(self, file: Path) -> None:
        with replacing(file) as handle:
            handle.write(b"after")
            handle.flush()
            assert file.read_bytes() == b"before"
            (part,) = (p for p in file.parent.iterdir() if p != file)
            assert re.fullmatch(PART, part.name)
        assert file.read_bytes() == b"after"

    def test_a_reader_that_has_the_file_open_keeps_what_it_reads(self, file: Path) -> None:
        with file.open("rb") as reader:
            write_bytes(file, b"after")
            assert reader.read() == b"before"

    def test_a_symbolic_link_is_replaced_and_what_it_points_to_stays(self, file: Path) -> None:
        link = file.with_name("link")
        link.symlink_to(file)
        write_bytes(link, b"after")
        assert (file.read_bytes(), link.read_bytes(), link.is_symlink()) == (b"before", b"after", False)

    @pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o077, 0o600)])
    def test_permissions_follow_the_umask(self, target: Path, umask: int, expected: int) -> None:
        before = os.umask(umask)
        try:
            write_bytes(target, b"after")
        finally:
            os.umask(before)
        assert stat.S_IMODE(target.stat().st_mode) == expected

    def test_a_private_file_is_private_from_the_start(self, target: Path) -> None:
        with replacing(target, mode=0o600):
            modes = {stat.S_IMODE(p.stat().st_mode) for p in target.parent.iterdir() if p != target}
        assert modes == {0o600} == {stat.S_IMODE(target.stat().st_mode)}

    def test_a_durable_file_is_on_the_disk_before_it_is_renamed(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = []
        monkeypatch.setattr(os, "fsync", lambda handle: seen.append((os.fstat(handle).st_size, file.read_bytes())))
        write_bytes(file, b"after it", durable=True)
        assert seen == [(8, b"before")]
        write_bytes(file, b"again")
        assert len(seen) == 1


class TestFailure:
    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
    def test_in_mid_write_leaves_what_was_there(
        self, target: Path, names: list[str], error: type[BaseException]
    ) -> None:
        with pytest.raises(error), replacing(target) as handle:  # noqa: PT012
            handle.write(b"half")
            handle.flush()
            raise error
        assert unchanged(target, names)

    @pytest.mark.parametrize("size", [100, 100_000], ids=["in the buffer", "past the buffer"])
    def test_a_write_that_the_system_refuses(self, target: Path, names: list[str], size: int) -> None:
        with small_files_only(50), pytest.raises(OSError, match="too large"):
            write_bytes(target, bytes(size))
        assert unchanged(target, names)

    @pytest.mark.parametrize("call", ["fsync", "replace"])
    def test_a_full_disk(self, target: Path, names: list[str], call: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os if call == "fsync" else Path, call, full)
        with pytest.raises(OSError, match="No space left"):
            write_bytes(target, b"after", durable=True)
        assert unchanged(target, names)

    def test_a_folder_in_its_place_is_refused_before_anything_is_written(self, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        with pytest.raises(IsADirectoryError, match="folder"):
            write_bytes(tmp_path / "folder", b"after")
        assert [p.name for p in tmp_path.iterdir()] == ["folder"]

    @pytest.mark.parametrize("kind", ["pipe", "device"])
    def test_a_pipe_or_a_device_in_its_place_stays_one(self, tmp_path: Path, kind: str) -> None:
        if kind == "pipe":
            os.mkfifo(tmp_path / "node")
        else:
            (tmp_path / "node").symlink_to("/dev/null")
        with pytest.raises(OSError, match=f"a {kind}, not a regular file"):
            write_bytes(tmp_path / "node", b"after")
        assert not (tmp_path / "node").is_file()
        assert [p.name for p in tmp_path.iterdir()] == ["node"]

    def test_a_file_where_its_folder_should_be(self, file: Path) -> None:
        with pytest.raises(OSError, match="exists"):
            write_bytes(file / "below", b"after")
        assert file.read_bytes() == b"before"

    def test_a_missing_folder_is_not_made_for_a_private_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError), replacing(tmp_path / "gone" / "file", mode=0o600):
            pass
        assert not any(tmp_path.iterdir())

    def test_a_killed_process_leaves_the_old_file_and_a_part_known_by_name(self, file: Path) -> None:
        script = f"""
import os, pathlib, signal
from ckptaudit.atomic_write import replacing
with replacing(pathlib.Path({str(file)!r})) as handle:
    handle.write(b"half")
    handle.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
        ended = subprocess.run([sys.executable, "-c", script], check=False)
        assert ended.returncode == -signal.SIGKILL
        assert file.read_bytes() == b"before"
        (part,) = (p.name for p in file.parent.iterdir() if p != file)
        assert re.fullmatch(PART, part)


@contextmanager
def small_files_only(size: int) -> Iterator[None]:
    """Let the kernel refuse bytes past a size, as on a full disk; also what pytest prints to a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
