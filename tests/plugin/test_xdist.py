"""Under pytest-xdist: the same verdicts, each matrix measured once, a whole JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def audited(
    pytester: pytest.Pytester, fixture_pairs: Path, *options: str
) -> tuple[pytest.RunResult, dict[str, Any]]:
    pair = ["--base", str(fixture_pairs / "base"), "--tuned", str(fixture_pairs / "sft")]
    result = pytester.runpytest_subprocess(*pair, "--audit-json", "a.json", *options)
    return result, json.loads(pytester.path.joinpath("a.json").read_text())


def test_two_workers_find_what_one_process_finds(pytester: pytest.Pytester, fixture_pairs: Path) -> None:
    alone, expected = audited(pytester, fixture_pairs)
    spread, found = audited(pytester, fixture_pairs, "-n", "2")

    assert spread.ret == alone.ret == 1
    assert found["summary"] == expected["summary"]
    key = ["tuned", "check", "subject", "outcome", "worst"]
    assert rows(found["verdicts"], key) == rows(expected["verdicts"], key)
    # Equal rows as a list, not as a set: a matrix measured twice would stand in it twice.
    key = ["tensor", "metric", "kind"]
    assert rows(found["measurements"], key) == rows(expected["measurements"], key)
    values = {(m["tensor"], m["metric"]): m["value"] for m in expected["measurements"]}
    for m in found["measurements"]:
        assert m["value"] == pytest.approx(values[m["tensor"], m["metric"]], rel=1e-6, abs=1e-9)


def test_ids_are_the_same_under_workers(pytester: pytest.Pytester, fixture_pairs: Path) -> None:
    result, _ = audited(pytester, fixture_pairs, "-n", "2", "-v", "-k", "spectral-drift")
    result.stdout.fnmatch_lines(["*FAILED rlvr.toml::spectral-drift[[]layers.3[]]*"])


def rows(table: list[dict[str, Any]], keys: list[str]) -> list[tuple[Any, ...]]:
    return sorted(tuple(row[k] for k in keys) for row in table)
