"""The progress display: a line now and then in a log, nothing of it where nothing takes long."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ckptaudit.plugin import progress
from tests.conftest import package


def test_a_log_tells_how_far_it_is(
    pytester: pytest.Pytester, small_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tuned = small_pair
    monkeypatch.setattr(progress, "LOG_AFTER_S", -1.0)
    monkeypatch.setattr(progress, "LOG_EVERY_S", -1.0)
    result = pytester.runpytest_inprocess("--base", str(base), "--tuned", str(tuned))
    result.stdout.fnmatch_lines(
        ["ckptaudit: measured * of 4 tensors in * s, about * s left", "ckptaudit: measured 4 of 4 tensors in * s"]
    )


def test_a_quick_run_and_a_quiet_one_say_nothing(
    pytester: pytest.Pytester, small_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tuned = small_pair
    result = pytester.runpytest_inprocess("--base", str(base), "--tuned", str(tuned))
    result.stdout.no_fnmatch_line("*measured*tensors*")
    monkeypatch.setattr(progress, "LOG_AFTER_S", -1.0)
    quiet = pytester.runpytest_inprocess("--base", str(base), "--tuned", str(tuned), "-q")
    quiet.stdout.no_fnmatch_line("*measured*tensors*")


@pytest.mark.parametrize("how", [("-x",), ("-n", "2")], ids=["stopping at the first", "two processes"])
def test_it_tells_as_much_where_the_tests_measure(
    how: tuple[str, ...], pytester: pytest.Pytester, small_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if how[0] == "-n":
        package("xdist")
    base, tuned = small_pair
    monkeypatch.setattr(progress, "LOG_AFTER_S", -1.0)
    monkeypatch.setattr(progress, "LOG_EVERY_S", -1.0)
    result = pytester.runpytest_inprocess("--base", str(base), "--tuned", str(tuned), *how, "-k", "update-size")
    assert result.ret == 0
    result.stdout.re_match_lines([r"ckptaudit: measured 1 of 2 tensors in \d+ s, about \d+ s left"])
    silent = pytester.runpytest_inprocess("--base", str(base), "--tuned", str(tuned), *how, "-q")
    silent.stdout.no_fnmatch_line("*measured*tensors*")


class Reporter:
    """What the lines are written to."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def ensure_newline(self) -> None:
        pass

    def write_line(self, line: str) -> None:
        self.lines.append(line)


def test_the_first_line_comes_after_five_seconds_and_estimates_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 4.0, 6.0, 20.0, 600.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    reporter = Reporter()
    log = progress.Log(reporter)  # type: ignore[arg-type]
    for done in (5, 10, 20, 60):
        log(done, 100)
    assert reporter.lines == [
        "ckptaudit: measured 10 of 100 tensors in 6 s, about 54 s left",
        "ckptaudit: measured 60 of 100 tensors in 10 min, about 7 min left",
    ]


def test_the_clock_of_probes_starts_when_their_models_run(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 50.0, 54.0, 60.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    reporter = Reporter()
    log = progress.Log(reporter, "probes: ran", "tokens")  # type: ignore[arg-type]
    for done in (0, 1000, 2000):
        log(done, 12_000)
    assert reporter.lines == ["ckptaudit: probes: ran 2,000 of 12,000 tokens in 10 s, about 50 s left"]
