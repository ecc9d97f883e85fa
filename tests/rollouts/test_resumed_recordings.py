"""Steps that a resumed run repeats: the newest attempt is the run, and none is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptaudit.integrations.recording import RolloutLog
from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.readers import open_rollouts
from tests.rollouts.simulated import run_rows


def attempted(folder: Path, steps: range, reward: float) -> None:
    log = RolloutLog(folder)
    for step in steps:
        rows = run_rows(steps=1, groups=2, length=8)
        log.put([{**row, "step": step, "reward": reward} for row in rows])
    log.close()


@pytest.mark.parametrize(
    ("first", "kept"), [(4, [1.0] * 3 + [2.0] * 3), (1, [2.0] * 6), (7, [1.0] * 6 + [2.0] * 6)]
)
def test_steps_that_a_resumed_run_repeats_are_set_aside(first: int, kept: list[float], tmp_path: Path) -> None:
    attempted(tmp_path, range(1, 7), 1.0)
    attempted(tmp_path, range(first, 7 if first < 7 else 13), 2.0)
    steps: dict[int, set[float]] = {}
    for batch in open_rollouts(tmp_path, RunFacts()).open(["step", "reward"]):
        for step, reward in zip(batch["step"].to_pylist(), batch["reward"].to_pylist(), strict=True):
            steps.setdefault(step, set()).add(reward)
    assert [steps[step] for step in sorted(steps)] == [{reward} for reward in kept]
    aside = sorted(path.name for path in tmp_path.glob("superseded-1/*"))
    assert len(aside) == 6 - min(first - 1, 6)


def test_nothing_of_several_attempts_is_lost(tmp_path: Path) -> None:
    for attempt in range(3):
        attempted(tmp_path, range(1, 3), float(attempt))
    assert len([*tmp_path.rglob("*.parquet")]) == 6
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["superseded-1", "superseded-2"]
