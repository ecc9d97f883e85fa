"""A calibration that fails its own verification replaces nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptaudit.cli import main

MINE = "# mine, and the gate reads it\n"


def calibrate(pair: tuple[Path, Path], output: Path, *more: str) -> int:
    base, tuned = map(str, pair)
    return main(["calibrate", f"--base={base}", f"--tuned={tuned}", "--profile=sft", "-o", str(output), *more])


TOO_TIGHT = 'profile = "sft"\n[[override]]\ncheck = "update-size"\nat_most = 1e-30\nreason = "wrong"\n'
BROKEN = {
    "a limit that the run does not keep": (
        TOO_TIGHT,
        "fails update-size under the limits it set; nothing was written",
    ),
    "a check that is not there": (TOO_TIGHT.replace("update-size", "no-such"), "no-such"),
    "no configuration at all": ("profile = = 1", "line 1"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_would_be_wrong_is_not_written_over_the_old_one(
    small_pair: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: str,
) -> None:
    text, said = BROKEN[case]
    monkeypatch.setattr("ckptaudit.calibration.config_file.render", lambda *_: text)
    folder = tmp_path / "gate"
    folder.mkdir()
    file = folder / "ckptaudit.toml"
    file.write_text(MINE)

    assert calibrate(small_pair, file, "--overwrite") == 4

    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert file.read_text() == MINE
    assert [path.name for path in folder.iterdir()] == [file.name], "no draft is left behind"


def test_a_new_file_that_would_be_wrong_is_not_written_at_all(
    small_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckptaudit.calibration.config_file.render", lambda *_: TOO_TIGHT)
    assert calibrate(small_pair, tmp_path / "new.toml") == 4
    assert not (tmp_path / "new.toml").exists()


def test_a_right_file_replaces_the_old_one(small_pair: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "ckptaudit.toml"
    file.write_text(MINE)
    assert calibrate(small_pair, file, "--overwrite") == 0
    assert MINE not in file.read_text()
