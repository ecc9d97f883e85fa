"""The cache of factors: what is kept, for whom, for how long; and everything that must not go wrong with it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from ckptaudit.errors import CacheError
from ckptaudit.measurement.base_cache import DEFAULT_LIMIT, FactorCache
from ckptaudit.measurement.cache_entries import entry_key
from ckptaudit.measurement.cache_location import open_cache

KEY = "ab" * 32
OTHER = "cd" * 32


@pytest.fixture
def cache(tmp_path: Path) -> FactorCache:
    return FactorCache(tmp_path / "cache")


def factors(seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        "left": torch.randn(6, 3, generator=random),
        "s": torch.rand(3, generator=random, dtype=torch.float64),
        "mask": torch.randint(0, 256, (5,), generator=random, dtype=torch.uint8),
        "nothing": torch.empty(0, 4),
        "count": torch.tensor(7),
    }


def same(found: dict[str, Tensor] | None, expected: dict[str, Tensor]) -> bool:
    return (
        found is not None
        and found.keys() == expected.keys()
        and all(found[k].dtype == v.dtype and torch.equal(found[k], v) for k, v in expected.items())
    )


def the_file(cache: FactorCache) -> Path:
    (path,) = cache.folder.glob("*.safetensors")
    return path


class TestKeys:
    def test_equal_contents_have_one_key_wherever_and_however_they_lie_in_memory(self) -> None:
        weight = torch.randn(4, 6).bfloat16()
        apart = weight.t().contiguous().t()
        assert entry_key(weight, definition="1") == entry_key(apart, definition="1")

    @pytest.mark.parametrize(
        "other",
        [
            torch.tensor([[0.0, 1.0], [2.0, 3.5]]),
            torch.tensor([[-0.0, 1.0], [2.0, 3.0]]),
            torch.tensor([[0.0, 1.0, 2.0, 3.0]]),
            torch.tensor([[0.0, 1.0], [2.0, 3.0]]).double(),
            torch.tensor([[0.0, 1.0], [2.0, 3.0]]).view(torch.int32),
        ],
        ids=["a value", "the sign of a zero", "the shape", "the precision", "the dtype alone"],
    )
    def test_anything_that_differs_makes_another_key(self, other: Tensor) -> None:
        weight = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
        assert entry_key(weight, definition="1") != entry_key(other, definition="1")

    def test_so_does_another_definition_of_what_is_kept(self) -> None:
        assert entry_key(torch.ones(2), definition="1") != entry_key(torch.ones(2), definition="2")

    @pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16, torch.bool, torch.int64], ids=str)
    @pytest.mark.parametrize("shape", [(), (0, 3), (2, 2)], ids=str)
    def test_every_dtype_and_shape_has_one(self, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        assert len(entry_key(torch.ones(shape).to(dtype), definition="1")) == 64


class TestEntries:
    def test_come_back_bit_for_bit(self, cache: FactorCache) -> None:
        cache.write(KEY, factors())
        assert same(cache.read(KEY), factors())

    def test_are_not_there_before_they_were_written(self, cache: FactorCache) -> None:
        assert cache.read(KEY) is None

    def test_may_be_written_over(self, cache: FactorCache) -> None:
        cache.write(KEY, factors(0))
        cache.write(KEY, factors(1))
        assert same(cache.read(KEY), factors(1))

    def test_hold_views_without_what_surrounds_them(self, cache: FactorCache) -> None:
        whole = torch.randn(8, 8)
        views = {"top": whole[:, :2], "turned": whole.mT, "again": whole[:, :2]}
        cache.write(KEY, views)
        assert same(cache.read(KEY), views)
        assert the_file(cache).stat().st_size < 2 * (8 * 8 + 2 * 16) * 4 + 512

    def test_can_be_changed_in_place_by_who_read_them(self, cache: FactorCache) -> None:
        cache.write(KEY, factors())
        read = cache.read(KEY)
        assert read is not None
        read["left"].zero_()
        assert same(cache.read(KEY), factors())

    def test_are_safetensors_files_that_any_reader_opens(self, cache: FactorCache) -> None:
        cache.write(KEY, factors())
        assert same(load_file(the_file(cache)), factors())

    def test_are_private_to_the_user(self, cache: FactorCache) -> None:
        cache.write(KEY, factors())
        assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(the_file(cache).stat().st_mode) == 0o600


class TestDamage:
    def test_any_flipped_bit_is_noticed_and_the_entry_is_rebuilt(self, cache: FactorCache) -> None:
        """Every bit of an entry, header, seal and padding included."""
        cache.write(KEY, {"s": torch.arange(3.0)})
        sound = the_file(cache).read_bytes()
        for bit in range(8 * len(sound)):
            broken = bytearray(sound)
            broken[bit // 8] ^= 1 << bit % 8
            cache._path(KEY).write_bytes(broken)
            assert cache.read(KEY) is None, f"bit {bit}"
            assert not cache._path(KEY).exists()
        cache.write(KEY, {"s": torch.arange(3.0)})
        assert cache.read(KEY) is not None

    def test_so_is_any_truncation(self, cache: FactorCache) -> None:
        cache.write(KEY, {"s": torch.arange(3.0)})
        sound = the_file(cache).read_bytes()
        for length in range(len(sound)):
            cache._path(KEY).write_bytes(sound[:length])
            assert cache.read(KEY) is None, f"{length} bytes"

    @given(st.binary(max_size=300))
    def test_and_any_other_file_in_its_place(self, content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            cache = FactorCache(Path(folder))
            cache._path(KEY).write_bytes(content)
            assert cache.read(KEY) is None

    def test_a_sparse_file_is_removed_before_its_size_is_reserved(self, cache: FactorCache) -> None:
        cache.write(KEY, factors())
        path = cache.folder / f"{KEY}.safetensors"
        os.truncate(path, 2**42)
        assert FactorCache(cache.folder, limit=2**50).read(KEY) is None
        assert not path.exists()

    def test_an_entry_does_not_answer_for_another_key(self, cache: FactorCache) -> None:
        cache.write(KEY, factors())
        shutil.copy(cache._path(KEY), cache._path(OTHER))
        assert cache.read(OTHER) is None
        assert cache.read(KEY) is not None


class TestLimit:
    """Entries of 4 kB and some header."""

    @staticmethod
    def fill(cache: FactorCache, numbers: range) -> None:
        for number in numbers:
            cache.write(f"{number:064x}", {"s": torch.zeros(1000)})
            os.utime(cache._path(f"{number:064x}"), (number, number))

    def test_what_was_used_longest_ago_goes_first(self, tmp_path: Path) -> None:
        cache = FactorCache(tmp_path, limit=50_000)
        self.fill(cache, range(1, 11))
        assert cache.read(f"{1:064x}") is not None  # used just now
        self.fill(cache, range(20, 24))
        assert cache.contents().size <= 50_000
        assert cache.read(f"{1:064x}") is not None
        assert cache.read(f"{2:064x}") is None
        assert cache.read(f"{23:064x}") is not None

    def test_it_is_kept_however_many_processes_write(self, tmp_path: Path) -> None:
        caches = [FactorCache(tmp_path, limit=100_000) for _ in range(3)]
        for number in range(90):
            caches[number % 3].write(f"{number:064x}", {"s": torch.zeros(1000)})
        assert cache_size(tmp_path) <= 100_000 + 3 * 10_000

    def test_an_entry_larger_than_the_limit_is_not_kept_and_drives_nothing_out(self, tmp_path: Path) -> None:
        cache = FactorCache(tmp_path, limit=10_000)
        cache.write(KEY, {"s": torch.zeros(1000)})
        cache.write(OTHER, {"s": torch.zeros(10_000)})
        assert cache.read(KEY) is not None
        assert cache.read(OTHER) is None

    def test_at_most_half_of_the_free_disk_is_taken(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=20_000 - 2 * cache_size(tmp_path)))
        cache = FactorCache(tmp_path)
        self.fill(cache, range(1, 11))
        assert 4_000 < cache.contents().size <= 10_000

    def test_files_of_somebody_else_stay(self, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors").write_bytes(bytes(100_000))
        cache = FactorCache(tmp_path, limit=20_000)
        self.fill(cache, range(1, 11))
        assert 0 < cache.contents().size <= 20_000
        cache.clear()
        assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def cache_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


class TestTrouble:
    def test_a_full_disk_loses_the_entry_and_nothing_else(
        self, cache: FactorCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "replace", full)
        cache.write(KEY, factors())
        assert cache.read(KEY) is None
        assert cache.trouble is not None
        assert "No space left" in cache.trouble
        assert [p.name for p in cache.folder.iterdir()] == ["CACHEDIR.TAG"]

    def test_so_does_a_folder_that_may_only_be_read(self, readable_by_all: Path) -> None:
        cache = FactorCache(readable_by_all)
        cache.write(KEY, factors())
        cache._path(KEY).chmod(0o444)
        cache.folder.chmod(0o555)
        script = f"""
import os, pathlib, torch, safetensors.torch, ckptaudit.measurement.base_cache as base_cache
os.chdir("/")
if os.getuid() == 0:
    # Root writes everywhere; all that is needed is imported, another user may not enter where it lies.
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
cache = base_cache.FactorCache(pathlib.Path({str(cache.folder)!r}))
assert cache.read({KEY!r}) is not None
cache.write({OTHER!r}, {{"s": torch.ones(1)}})
assert "denied" in cache.trouble and cache.contents().entries == 1
"""
        subprocess.run([sys.executable, "-c", script], check=True)

    def test_a_folder_that_vanished_under_way(self, cache: FactorCache) -> None:
        shutil.rmtree(cache.folder)
        cache.write(KEY, factors())
        assert cache.read(KEY) is None
        assert cache.trouble is not None

    def test_what_a_killed_process_left_is_cleared_away_in_time(self, cache: FactorCache) -> None:
        names = (f"{KEY}.old.part", f".ckptaudit-{0:016x}.part", f".ckptaudit-{1:016x}.part", ".theirs.part")
        earlier, old, new, theirs = (cache.folder / name for name in names)
        for file in (earlier, old, new, theirs):
            file.write_bytes(b"half")
        for file in (earlier, old, theirs):
            os.utime(file, (time.time() - 7200,) * 2)
        cache.write(OTHER, factors())
        assert [file.exists() for file in (earlier, old, new, theirs)] == [False, False, True, True]


@pytest.fixture
def readable_by_all() -> Iterator[Path]:
    """Outside of pytest's own folders, which are closed to every other user."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
        Path(folder).chmod(0o700)


class TestProcessesAtOnce:
    def test_read_whole_entries_while_others_write_and_evict(self, tmp_path: Path) -> None:
        """This process and another on one small folder: every read is a miss or exact."""
        other = get_context("spawn").Process(target=write_and_read, args=(tmp_path, 1))
        other.start()
        while other.is_alive() and not any(tmp_path.iterdir()):
            time.sleep(0.01)  # it imports torch first
        write_and_read(tmp_path, 0)
        other.join()
        assert other.exitcode == 0
        assert not list(tmp_path.glob("*.part"))


def write_and_read(folder: Path, seed: int) -> None:
    cache = FactorCache(folder, limit=100_000)
    hits, pick = 0, Random(seed)
    for _ in range(300):
        number = pick.randrange(40)
        expected = {"s": torch.full((1000,), float(number))}
        found = cache.read(f"{number:064x}")
        if found is None:
            cache.write(f"{number:064x}", expected)
        else:
            hits += 1
            assert torch.equal(found["s"], expected["s"])
    assert hits
    assert cache.trouble is None


class TestWhere:
    @pytest.fixture(autouse=True)
    def _no_environment(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("CKPTAUDIT_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))

    def test_by_default_in_the_user_s_own_cache_folder(self, tmp_path: Path) -> None:
        cache = open_cache()
        assert cache is not None
        assert cache.folder == tmp_path / "home" / "ckptaudit"
        assert cache.limit == DEFAULT_LIMIT == 20 * 2**30

    def test_the_environment_names_another_and_the_option_wins(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CKPTAUDIT_CACHE", str(tmp_path / "environment"))
        named, given_ = open_cache(), open_cache(str(tmp_path / "option"))
        assert named is not None
        assert given_ is not None
        assert named.folder.name == "environment"
        assert given_.folder.name == "option"

    def test_off_is_no_cache(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert open_cache("off") is None
        monkeypatch.setenv("CKPTAUDIT_CACHE", "off")
        assert open_cache() is None

    def test_the_limit_is_in_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CKPTAUDIT_CACHE_LIMIT", "1.5GiB")
        cache = open_cache()
        assert cache is not None
        assert cache.limit == 3 * 2**29
        monkeypatch.setenv("CKPTAUDIT_CACHE_LIMIT", "much")
        with pytest.raises(CacheError, match=r"CKPTAUDIT_CACHE_LIMIT=much: .*512MiB"):
            open_cache()

    def test_a_file_in_its_place_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(CacheError, match=r"^cache= .*file: not a folder"):
            open_cache(str(tmp_path / "file"))
        monkeypatch.setenv("CKPTAUDIT_CACHE", str(tmp_path / "file" / "below"))
        with pytest.raises(CacheError, match=r"CKPTAUDIT_CACHE .*below: not a folder"):
            open_cache()

    def test_nobody_s_wish_is_no_error(self, tmp_path: Path) -> None:
        (tmp_path / "home").touch()
        assert open_cache() is None
