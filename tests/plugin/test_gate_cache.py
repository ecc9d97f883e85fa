"""The cache as the gate uses it: it saves time, and never changes a number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ckptaudit.measurement.base_cache import FactorCache

Rows = list[tuple[Any, ...]]


@pytest.fixture
def cache(pytester: pytest.Pytester) -> FactorCache:
    return FactorCache(pytester.path / "cache")


@pytest.fixture
def measured(pytester: pytest.Pytester, fixture_pairs: Path) -> Any:
    """Run the gate on one layer of a good pair, in this process; returns its measurements."""

    def run(*options: str, base: str = "base") -> Rows:
        pair = [f"--base={fixture_pairs / base}", f"--tuned={fixture_pairs / 'rlvr-gentle'}"]
        chosen = ["-k", "(spectral-drift or rotation or overlap) and layers.0"]
        result = pytester.runpytest(*pair, *chosen, "--audit-json=a.json", *options)
        assert result.ret in (0, 1)
        rows = json.loads(pytester.path.joinpath("a.json").read_text())["measurements"]
        return sorted((m["tensor"], m["metric"], m["kind"], m["value"]) for m in rows)

    return run


@pytest.mark.parametrize("options", [(), ("--audit-exact",)], ids=["gate", "exact"])
def test_the_first_run_fills_it_and_the_next_finds_the_same(
    measured: Any, cache: FactorCache, options: tuple[str, ...]
) -> None:
    alone = measured("--audit-cache=off", *options)
    assert cache.contents().entries == 0
    first = measured("--audit-cache=cache", *options)
    kept = {path: path.stat().st_ino for path in cache.folder.glob("*.safetensors")}
    again = measured("--audit-cache=cache", *options)
    assert first == again == alone
    # A file that had been written once more would be another one.
    assert kept
    assert kept == {path: path.stat().st_ino for path in cache.folder.glob("*.safetensors")}


def test_damaged_entries_change_no_number_and_are_made_anew(measured: Any, cache: FactorCache) -> None:
    expected = measured("--audit-cache=cache")
    whole = {path: path.read_bytes() for path in cache.folder.glob("*.safetensors")}
    for number, (path, content) in enumerate(whole.items()):
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes(flipped if number % 2 else content[:middle])
    assert measured("--audit-cache=cache") == expected
    assert {path: path.read_bytes() for path in cache.folder.glob("*.safetensors")}.keys() == whole.keys()
    assert all(cache.read(path.stem) is not None for path in whole)


def test_another_base_shares_nothing(measured: Any, cache: FactorCache) -> None:
    measured("--audit-cache=cache", base="sft")
    count = cache.contents().entries
    cache.clear()
    measured("--audit-cache=cache")
    own = cache.contents().entries
    measured("--audit-cache=cache", base="sft")
    assert cache.contents().entries == own + count


def test_workers_share_it(measured: Any, cache: FactorCache) -> None:
    expected = measured("--audit-cache=cache")
    count = cache.contents().entries
    cache.clear()
    assert measured("--audit-cache=cache", "-n", "2") == expected
    assert cache.contents().entries == count


def test_a_cache_that_cannot_be_written_is_mentioned_and_judges_all_the_same(
    pytester: pytest.Pytester, fixture_pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FactorCache, "_put", full)
    pair = [f"--base={fixture_pairs / 'base'}", f"--tuned={fixture_pairs / 'rlvr-gentle'}"]
    result = pytester.runpytest(
        *pair, "--audit-profile=rlvr", "-k", "rotation-left and layers.0", "--audit-cache=cache"
    )
    result.assert_outcomes(passed=1, deselected=58)
    result.stdout.fnmatch_lines(["note: nothing more was kept in the cache (*: No space left on device)"])
