"""Few words that mean many checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptaudit.checkpoints.paths import labels, written_out
from ckptaudit.errors import CheckpointError


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for run in ("42", "43"):
        for step in (100, 20, 3):
            (tmp_path / "runs" / run / f"checkpoint-{step}").mkdir(parents=True)
    (tmp_path / "runs" / "42" / "trainer_state.json").touch()
    (tmp_path / "runs" / "empty").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("asked", ["runs/42@all", "runs/42/*", "runs/42/checkpoint-*"])
def test_saves_come_in_order_of_their_steps(asked: str) -> None:
    found = written_out([asked])
    assert [(n.path, n.label, n.step) for n in found] == [
        ("runs/42/checkpoint-3", "checkpoint-3", 3),
        ("runs/42/checkpoint-20", "checkpoint-20", 20),
        ("runs/42/checkpoint-100", "checkpoint-100", 100),
    ]
    assert len({n.run for n in found}) == 1


def test_an_absolute_pattern_works_as_well(tmp_path: Path) -> None:
    assert len(written_out([f"{tmp_path}/runs/*/checkpoint-3"])) == 2


def test_runs_are_told_apart_by_as_much_of_their_paths_as_it_takes() -> None:
    found = written_out(["runs/*/checkpoint-20"])
    assert [n.label for n in found] == ["42/checkpoint-20", "43/checkpoint-20"]
    assert len({n.run for n in found}) == 2


def test_a_step_further_up_the_path_counts(tmp_path: Path) -> None:
    (tmp_path / "verl" / "global_step_7" / "actor").mkdir(parents=True)
    (named,) = written_out(["verl/global_step_7/actor"])
    assert (named.step, named.label) == (7, "")


def test_one_path_has_no_label() -> None:
    assert labels(["runs/42"]) == [""]


def test_a_path_that_exists_is_never_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "odd[1]").mkdir()
    assert written_out(["odd[1]"])[0].path == "odd[1]"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["runs/44/*"], "runs/44/*: no folder or file of weights matches"),
        (["runs/44@all"], "no such directory"),
        (["runs/empty@all"], "no checkpoint-N"),
        (["runs/42/*", "runs/42/checkpoint-3"], "checkpoint-3: given twice"),
        (["runs/42/checkpoint-3", "runs/42/../42/checkpoint-3"], "given twice"),
    ],
)
def test_what_finds_nothing_or_too_much_is_refused(asked: list[str], words: str) -> None:
    with pytest.raises(CheckpointError) as refused:
        written_out(asked)
    assert words in str(refused.value)
