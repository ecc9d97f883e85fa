"""Groups that give one answer alone: a collapse where it is not the best, and the end of a run that is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ckptaudit import audit
from ckptaudit.damages.columns import numbers, with_column
from ckptaudit.damages.rollouts import copied_answers
from ckptaudit.rollouts.readings import NONE_HERE, Reading
from ckptaudit.rollouts.table import write_table
from tests.rollouts.judged import CHECKS, broken_checks, limit_is_broken, readings
from tests.rollouts.simulated import run_rows, table_of

RUNS = Path(__file__).parents[2] / "fixtures" / "rollouts"
(CHECK,) = (check for check in CHECKS if check["id"] == "groups-not-stuck")


def stuck(table: pa.Table) -> Reading:
    (reading,) = (r for r in readings(table, "stuck_group_share") if r.subject == "run")
    return reading


def by_hand(table: pa.Table) -> float:
    """The share over the last tenth of the steps, sample by sample."""
    rows: list[dict[str, Any]] = table.select(["step", "group_id", "reward", "token_ids"]).to_pylist()
    steps = sorted({row["step"] for row in rows})
    last = set(steps[-max(1, round(len(steps) / 10)) :])
    best = max(row["reward"] for row in rows)
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["step"] in last:
            groups.setdefault((row["step"], row["group_id"]), []).append(row)
    hits = [
        len({tuple(r["token_ids"]) for r in group}) == 1 and max(r["reward"] for r in group) < best
        for group in groups.values()
    ]
    return float(np.mean(hits))


@pytest.mark.parametrize("run", ["healthy", "stale-engine", "mixed-groups", "collapse"])
def test_the_share_is_that_of_a_count_by_hand(run: str) -> None:
    table = pq.read_table(RUNS / run / "rollouts.parquet")
    assert stuck(table).value == pytest.approx(by_hand(table), abs=1e-12)


def test_the_runs_lie_far_apart_on_either_side_of_the_limit() -> None:
    values = {run.name: stuck(pq.read_table(run / "rollouts.parquet")).value or 0.0 for run in RUNS.glob("*[!0]")}
    collapsed = values.pop("collapse")
    assert collapsed > 0.9
    assert len(values) == 3
    assert max(values.values()) < 0.025


@pytest.fixture(scope="module")
def same() -> pa.Table:
    """Every group of every step gives one answer."""
    return copied_answers(table_of(run_rows(steps=12, groups=8, size=8)))


def rewarded(table: pa.Table, early: float, late: float) -> pa.Table:
    steps = numbers(table, "step")
    return with_column(table, "reward", np.where(steps < steps.max() - 2, early, late))


def test_one_answer_that_is_the_best_is_a_solved_task(same: pa.Table) -> None:
    assert stuck(rewarded(same, 0.0, 1.0)).value == 0.0


def test_one_answer_that_earns_less_than_earlier_ones_is_a_collapse(same: pa.Table) -> None:
    """All rewards of the last steps are equal, so that only the run as a whole tells."""
    found = stuck(rewarded(same, 1.0, 0.0))
    assert found.value == 1.0
    assert limit_is_broken(CHECK, found)
    assert "groups-not-stuck" in broken_checks(rewarded(same, 1.0, 0.0))


@pytest.mark.parametrize("worth", ["by question", "by length"])
def test_solved_tasks_whose_best_answers_are_worth_different_amounts(same: pa.Table, worth: str) -> None:
    names = np.unique(np.array(same.column("group_id").to_pylist()), return_inverse=True)[1]
    best = np.array([1.0, 2.0, 3.0, 5.0])[names % 4] if worth == "by question" else 1 - 0.01 * (names % 7)
    steps = numbers(same, "step")
    found = stuck(with_column(same, "reward", np.where(steps < 2, 0.0, best)))
    assert found.value == 0.0
    assert "in the upper half" in found.remark


def test_one_answer_in_the_lower_half_of_graded_rewards_is_a_collapse(same: pa.Table) -> None:
    names = np.unique(np.array(same.column("group_id").to_pylist()), return_inverse=True)[1]
    best, steps = np.array([1.0, 2.0, 3.0, 5.0])[names % 4], numbers(same, "step")
    assert stuck(with_column(same, "reward", np.where(steps < 6, best, best / 8))).value == 1.0


def test_rounding_of_rewards_is_no_difference(same: pa.Table) -> None:
    assert stuck(rewarded(same, 1.0 + 1e-12, 1.0)).value == 0.0


def test_three_groups_are_too_few_to_tell(same: pa.Table) -> None:
    steps = numbers(same, "step")
    names = np.array(same.column("group_id").to_pylist())
    last = steps == steps.max()
    few = np.isin(names, np.unique(names[last])[:3]) | ~last
    found = stuck(rewarded(same, 1.0, 0.0).filter(pa.array(few)))
    assert found.value == 1.0
    assert not limit_is_broken(CHECK, found)


def test_a_log_without_answers_or_without_groups_has_nothing_of_the_kind(same: pa.Table) -> None:
    textless = same.drop_columns(["token_ids", "response"])
    assert stuck(textless).remark.startswith(NONE_HERE)
    alone = with_column(same, "group_id", [str(place) for place in range(same.num_rows)])
    assert stuck(alone).remark.startswith(NONE_HERE)


def test_such_a_log_keeps_no_gate_closed(same: pa.Table, tmp_path: Path) -> None:
    textless = table_of(run_rows(steps=12, groups=8, size=8)).drop_columns(["token_ids", "response"])
    write_table(tmp_path / "log" / "rollouts.parquet", textless.to_batches())
    result = audit(rollouts=tmp_path / "log")
    (verdict,) = (v for v in result.verdicts if v.check == "groups-not-stuck")
    assert verdict.outcome == "skipped"
