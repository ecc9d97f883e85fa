"""`--audit-html FILE`: the page of a run, also under workers, and refused before anything is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptaudit.report.html import render_html
from ckptaudit.results.json_io import read_json


@pytest.fixture
def pair(small_pair: tuple[Path, Path]) -> list[str]:
    return [f"--base={small_pair[0]}", f"--tuned={small_pair[1]}"]


def test_the_page_is_written_and_the_terminal_says_where(pytester: pytest.Pytester, pair: list[str]) -> None:
    result = pytester.runpytest(*pair, "--audit-html", "out/report.html")
    result.stdout.fnmatch_lines(["the page to look at is in out/report.html"])
    assert [p.name for p in (pytester.path / "out").iterdir()] == ["report.html"]
    assert "Gate" in (pytester.path / "out" / "report.html").read_text("utf-8")


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "two workers"])
def test_the_page_and_the_json_show_one_result(
    pytester: pytest.Pytester, pair: list[str], workers: tuple[str, ...]
) -> None:
    pytester.runpytest_subprocess(*pair, "--audit-html=a.html", "--audit-json=a.json", *workers)
    result = read_json(pytester.path / "a.json")
    assert result.spectra
    assert {m.metric for m in result.measurements} > {"update_hill_alpha", "principal_mask_overlap"}
    assert (pytester.path / "a.html").read_text("utf-8") == render_html(result)


def test_without_the_page_no_spectra_are_computed(pytester: pytest.Pytester, pair: list[str]) -> None:
    pytester.runpytest(*pair, "--audit-json=a.json", "-k", "spectral-drift")
    assert read_json(pytester.path / "a.json").spectra == ()


def test_a_path_that_cannot_be_written_is_refused_before_anything_is_measured(
    pytester: pytest.Pytester, pair: list[str]
) -> None:
    result = pytester.runpytest(*pair, "--audit-html", ".")
    assert result.ret == 4
    (line,) = [x for x in result.errlines if x]
    assert line.startswith("ERROR: --audit-html .: no file can be written there")
    assert "collected" not in result.stdout.str()


def test_collecting_alone_writes_nothing(pytester: pytest.Pytester, pair: list[str]) -> None:
    pytester.runpytest(*pair, "--audit-html=a.html", "--collect-only", "-q")
    assert not (pytester.path / "a.html").exists()


def test_a_page_that_cannot_be_written_in_the_end_closes_the_gate_and_leaves_nothing_half(
    pytester: pytest.Pytester, pair: list[str]
) -> None:
    pytester.makepyfile(
        in_the_way="""
        import pathlib
        def pytest_runtest_teardown():
            pathlib.Path("a.html").mkdir(exist_ok=True)
        """
    )
    pytester.syspathinsert()
    result = pytester.runpytest(*pair, "--audit-html=a.html", "-k", "finite", "-p", "in_the_way")
    assert result.ret == 4
    assert "cannot be written" in result.stdout.str()
    assert not (pytester.path / "a.html.part").exists()
