"""What the cache keeps of one base stays together and goes together; below it another cache may lie."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import ckptaudit
from ckptaudit.cli import main
from ckptaudit.errors import CacheError
from ckptaudit.measurement.base_cache import FactorCache, Shortfall
from ckptaudit.measurement.cache_location import open_cache

ENTRY = 4_200
"""Bytes of an entry of a thousand numbers, about."""


def key(number: int) -> str:
    return f"{number:064x}"


def opened(folder: Path, base: str, limit: int = 10 * ENTRY) -> FactorCache:
    """The cache as a process opens it for a base."""
    cache = FactorCache(folder, limit=limit)
    cache.belongs_to(base)
    return cache


def audit(cache: FactorCache, numbers: range) -> int:
    """Ask for entries in order and make those that are missing, as a run does; says how many were there."""
    hits = 0
    for number in numbers:
        if cache.read(key(number)) is None:
            cache.write(key(number), {"s": torch.full((1000,), float(number))})
        else:
            hits += 1
    return hits


class TestOneBase:
    def test_a_base_larger_than_the_cache_does_not_evict_itself(self, tmp_path: Path) -> None:
        first = opened(tmp_path, "large")
        assert audit(first, range(30)) == 0
        kept = first.contents().entries
        assert kept >= 8
        for _ in range(2):
            assert audit(opened(tmp_path, "large"), range(30)) == kept

    def test_the_size_that_it_needs_is_told(self, tmp_path: Path) -> None:
        cache = opened(tmp_path, "large")
        assert cache.shortage is None
        audit(cache, range(30))
        size = cache.contents().size / cache.contents().entries
        assert f"this base needs {30 * size / 1024:.1f} KiB" in (cache.shortage or "")
        assert "CKPTAUDIT_CACHE_LIMIT=1GiB" in (cache.shortage or "")

    def test_too_little_disk_is_told_from_too_low_a_limit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache = opened(tmp_path, "large", limit=1_000_000)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Free(6 * ENTRY - cache.contents().size))
        audit(cache, range(30))
        assert "free room on its disk" in (cache.shortage or "")


class TestTwoProcessesOfOneBase:
    def test_neither_evicts_what_the_other_has_kept(self, tmp_path: Path) -> None:
        one, other = opened(tmp_path, "large"), opened(tmp_path, "large")
        for number in range(10, 30, 2):
            audit(one, range(number, number + 1))
            audit(other, range(number + 1, number + 2))
        kept = one.contents().entries
        assert kept >= 8
        assert audit(opened(tmp_path, "large"), range(10, 10 + kept)) == kept

    def test_one_tells_of_what_both_could_not_keep(self, tmp_path: Path) -> None:
        one, other = opened(tmp_path, "large"), opened(tmp_path, "large")
        before = other.shortfall
        audit(one, range(20))
        assert other.shortfall.since(before) is None
        audit(other, range(20, 30))
        told = other.shortfall.since(before)
        assert told is not None
        one.add_shortfall(told)
        size = one.contents().size / one.contents().entries
        assert f"this base needs {30 * size / 1024:.1f} KiB" in (one.shortage or "")

    def test_the_reason_why_nothing_is_kept_is_told_once(self, tmp_path: Path) -> None:
        cache = opened(tmp_path, "large")
        cache.add_shortfall(Shortfall(0, 5, "full"))
        cache.add_shortfall(Shortfall(0, 9, "read-only"))
        assert cache.trouble == "full"
        assert cache.shortfall == Shortfall(0, 5, "full")


class Free(NamedTuple):
    """What the disk says of itself."""

    free: int


class TestSeveralBases:
    def test_the_base_used_longest_ago_goes_as_a_whole(self, tmp_path: Path) -> None:
        for at, (base, numbers) in enumerate({"old": range(3), "newer": range(10, 13)}.items(), 1):
            cache = opened(tmp_path, base)
            audit(cache, numbers)
            (record,) = [path for path in tmp_path.glob("*.base") if path.stat().st_mtime > 1_000]
            os.utime(record, (at, at))
        audit(opened(tmp_path, "third"), range(20, 26))
        left = {int(path.stem, 16) for path in tmp_path.glob("*.safetensors")}
        assert left == {10, 11, 12, *range(20, 26)}
        assert len(list(tmp_path.glob("*.base"))) == 2

    def test_what_two_bases_share_stays_with_the_one_in_use(self, tmp_path: Path) -> None:
        audit(opened(tmp_path, "old"), range(6))
        audit(opened(tmp_path, "new"), range(3, 12))
        left = {int(path.stem, 16) for path in tmp_path.glob("*.safetensors")}
        assert set(range(3, 12)) <= left
        assert not {0, 1, 2} & left

    def test_entries_of_no_known_base_go_first(self, tmp_path: Path) -> None:
        audit(FactorCache(tmp_path, limit=10 * ENTRY), range(100, 105))
        audit(opened(tmp_path, "old"), range(4))
        audit(opened(tmp_path, "new"), range(10, 13))
        left = {int(path.stem, 16) for path in tmp_path.glob("*.safetensors")}
        assert {0, 1, 2, 3, 10, 11, 12} <= left

    def test_processes_of_one_base_write_one_record(self, tmp_path: Path) -> None:
        one, other = opened(tmp_path, "base"), opened(tmp_path, "base")
        audit(one, range(2))
        audit(other, range(2, 4))
        (record,) = tmp_path.glob("*.base")
        assert set(record.read_text().split()) == {key(number) for number in range(4)}


class TestRecords:
    @pytest.mark.parametrize("content", [b"", b"\xff" * 300, b"no key\n", b"ab" * 31])
    def test_a_damaged_one_costs_order_and_nothing_else(self, content: bytes, tmp_path: Path) -> None:
        audit(opened(tmp_path, "base"), range(3))
        (record,) = tmp_path.glob("*.base")
        record.write_bytes(content)
        assert audit(opened(tmp_path, "base"), range(3)) == 3

    def test_neither_a_pipe_nor_a_link_in_its_place_is_used(self, tmp_path: Path) -> None:
        cache, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
        audit(opened(cache, "base"), range(1))
        (record,) = cache.glob("*.base")
        record.unlink()
        record.symlink_to(elsewhere)
        audit(opened(cache, "base"), range(1, 3))
        assert not elsewhere.exists()
        record.unlink()
        os.mkfifo(record)
        assert audit(opened(cache, "base"), range(3)) == 3

    def test_clearing_takes_them_along(self, tmp_path: Path) -> None:
        cache = opened(tmp_path, "base")
        audit(cache, range(3))
        assert cache.clear().entries == 3
        assert [path.suffix for path in tmp_path.iterdir()] in ([], [".TAG"])


class TestBelow:
    @pytest.fixture
    def team(self, tmp_path: Path) -> Path:
        audit(FactorCache(tmp_path / "team"), range(3))
        return tmp_path / "team"

    def test_what_is_missing_is_read_from_there_and_nothing_is_written(self, team: Path, tmp_path: Path) -> None:
        before = {path: path.stat().st_mtime_ns for path in team.iterdir()}
        cache = FactorCache(tmp_path / "own", shared=team)
        assert audit(cache, range(5)) == 3
        assert cache.contents().entries == 2
        assert {path: path.stat().st_mtime_ns for path in team.iterdir()} == before

    def test_a_damaged_entry_there_is_made_again_here(self, team: Path, tmp_path: Path) -> None:
        path = team / f"{key(1)}.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        cache = FactorCache(tmp_path / "own", shared=team)
        assert audit(cache, range(3)) == 2
        assert path.exists()
        assert audit(cache, range(3)) == 3

    @pytest.mark.parametrize("place", ["nowhere", __file__, "ftp://host/x", "a\0b"])
    def test_a_place_that_is_no_folder_is_one_line(self, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "environ", {**os.environ, "CKPTAUDIT_CACHE_SHARED": place})
        with pytest.raises(CacheError, match="CKPTAUDIT_CACHE_SHARED"):
            open_cache("off-the-record")


class TestWarming:
    def test_a_gate_finds_what_was_warmed(
        self, fixture_pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        base, folder = fixture_pairs / "base", tmp_path / "cache"
        where = ["--base", str(base), "--audit-cache", str(folder)]
        assert main(["cache", "warm", *where]) == 0
        entries = FactorCache(folder).contents().entries
        assert f"kept    {entries} new of {entries} entries" in capsys.readouterr().out
        times = {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
        ckptaudit.audit(base, fixture_pairs / "rlvr-gentle", cache=folder)
        assert all(path.stat().st_mtime_ns > time for path, time in times.items())
        assert main(["cache", "warm", *where]) == 0
        assert "kept    0 new" in capsys.readouterr().out

    def test_a_cache_too_small_for_the_base_is_told(
        self,
        fixture_pairs: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("CKPTAUDIT_CACHE_LIMIT", "500KiB")
        where = ["--base", str(fixture_pairs / "base"), "--audit-cache", str(tmp_path / "cache")]
        assert main(["cache", "warm", *where]) == 1
        assert "note: this base needs 1.9 MiB of a cache that may hold 500.0 KiB" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["warm"], "--base"),
            (["warm", "--base", "nowhere"], "no such file or directory"),
            (["warm", "--base", "nowhere", "--audit-cache", "off"], "nothing to warm"),
            (["info", "--base", "x"], "cache warm"),
        ],
    )
    def test_what_cannot_be_warmed_is_one_line(
        self, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["cache", *arguments]) == 4
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1
