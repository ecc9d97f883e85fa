"""The progress display: a line now and then in a log, nothing of it where nothing takes long."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptaudit.plugin import progress


def test_a_log_tells_how_far_it_is(
    pytester: pytest.Pytester, small_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tuned = small_pair
    monkeypatch.setattr(progress, "LOG_EVERY_S", -1.0)
    result = pytester.runpytest_inprocess("--base", str(base), "--tuned", str(tuned))
    result.stdout.fnmatch_lines(["ckptaudit: measured * of 4 tensors", "ckptaudit: measured 4 of 4 tensors"])


def test_a_quick_run_and_a_quiet_one_say_nothing(
    pytester: pytest.Pytester, small_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tuned = small_pair
    result = pytester.runpytest_inprocess("--base", str(base), "--tuned", str(tuned))
    result.stdout.no_fnmatch_line("*measured*tensors*")
    monkeypatch.setattr(progress, "LOG_EVERY_S", -1.0)
    quiet = pytester.runpytest_inprocess("--base", str(base), "--tuned", str(tuned), "-q")
    quiet.stdout.no_fnmatch_line("*measured*tensors*")
