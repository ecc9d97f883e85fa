"""The summary within pytest's own output: quiet, verbose, coloured, in CI logs; and the files it announces."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file


@pytest.fixture
def closed(small_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A pair that fails one check of two, in a log of an ordinary width."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.delenv("CI", raising=False)
    file = small_pair[1] / "model.safetensors"
    save_file({k: v * 1.1 for k, v in load_file(file).items()}, file)
    return [f"--base={small_pair[0]}", f"--tuned={small_pair[1]}", "-k", "spectral-drift or aligned"]


def section(result: pytest.RunResult) -> list[str]:
    start = next(i for i, x in enumerate(result.outlines) if "checkpoint audit" in x)
    return result.outlines[start + 1 :]


def test_the_summary_answers_what_where_and_how_badly(pytester: pytest.Pytester, closed: list[str]) -> None:
    result = pytester.runpytest(*closed)
    lines = section(result)
    assert result.ret == 1
    assert any(x.startswith("spectral-drift") and "BROKEN 2/2" in x and "over" in x for x in lines)
    assert "where spectral-drift is broken" in lines
    assert any(x.startswith("gate CLOSED, worst: spectral-drift at layers.") for x in lines)
    assert max(map(len, lines)) <= 140


def test_each_failure_is_one_line_in_the_short_summary_even_on_ci(
    pytester: pytest.Pytester, closed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    result = pytester.runpytest(*closed)
    start = next(i for i, x in enumerate(result.outlines) if "short test summary" in x)
    short = result.outlines[start + 1 : -1]
    assert len(short) == 2
    assert all("limit <= 0.001" in x and "source arXiv" in x for x in short)


def test_one_line_a_failure_with_tb_line(pytester: pytest.Pytester, closed: list[str]) -> None:
    result = pytester.runpytest(*closed, "--tb=line")
    result.stdout.fnmatch_lines(["*rlvr.toml::spectral-drift[[]layers.1[]]*limit <= 0.001*"])
    result.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.parametrize(
    ("option", "present", "absent"),
    [
        ("-q", ("spectral-drift", "gate CLOSED"), ("aligned ", "where ")),
        ("-qq", ("gate CLOSED",), ("spectral-drift  ", "aligned ")),
        ("-v", ("where spectral-drift is broken",), ()),
        ("--no-header", ("gate CLOSED",), ()),
        ("-n2", ("where spectral-drift is broken", "gate CLOSED"), ()),
    ],
)
def test_more_and_less_is_told_as_pytest_is_asked(
    pytester: pytest.Pytester, closed: list[str], option: str, present: tuple[str, ...], absent: tuple[str, ...]
) -> None:
    lines = section(pytester.runpytest(*closed, option, "-rN"))
    assert all(any(x.startswith(word) for x in lines) for word in present)
    assert not any(x.startswith(word) for x in lines for word in absent)


def test_no_summary_means_none(pytester: pytest.Pytester, closed: list[str]) -> None:
    pytester.runpytest(*closed, "--no-summary").stdout.no_fnmatch_line("*checkpoint audit*")


def test_colour_only_where_pytest_has_it(pytester: pytest.Pytester, closed: list[str]) -> None:
    assert "\x1b[" not in str(pytester.runpytest(*closed).stdout)
    assert "\x1b[1;31mgate CLOSED" in str(pytester.runpytest(*closed, "--color=yes").stdout)


def test_the_order_of_verdicts_is_the_checks_own_under_workers(
    pytester: pytest.Pytester, closed: list[str]
) -> None:
    rows = [
        [
            x.split()[0]
            for x in section(pytester.runpytest(*closed, "-k", "spectral-drift or actually-changed", *more))
            if x.startswith(("actually-", "spectral-"))
        ]
        for more in ((), ("-n2",))
    ]
    assert rows[0] == rows[1] == ["actually-changed", "spectral-drift"]


def test_own_tests_that_fail_keep_the_gate_from_being_called_open(
    pytester: pytest.Pytester, small_pair: tuple[Path, Path]
) -> None:
    pytester.makepyfile("def test_ours():\n    assert False\n")
    pair = [f"--base={small_pair[0]}", f"--tuned={small_pair[1]}"]
    result = pytester.runpytest(
        "test_own_tests_that_fail_keep_the_gate_from_being_called_open.py", "integrity.toml", *pair
    )
    assert result.ret == 1
    result.stdout.fnmatch_lines(["gate CLOSED: pytest ends with code 1"])


def test_the_table_of_measurements_is_written_and_announced(pytester: pytest.Pytester, closed: list[str]) -> None:
    result = pytester.runpytest(*closed, "--audit-parquet", "out/a.parquet", "-n2")
    result.stdout.fnmatch_lines(["every measurement, as a table, is in out/a.parquet"])
    assert "normalized_spectral_shift" in pq.read_table("out/a.parquet")["metric"].to_pylist()


def test_a_place_where_no_table_can_be_written_is_refused_before_measuring(
    pytester: pytest.Pytester, closed: list[str]
) -> None:
    result = pytester.runpytest(*closed, "--audit-parquet", ".")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: --audit-parquet .: no file can be written there*"])
