"""A column with a type or values that it cannot have ends in one line; one that is missing was not logged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ckptaudit.errors import RolloutError
from ckptaudit.rollouts.readers import open_rollouts
from ckptaudit.rollouts.scalars import read_scalars

ROWS = 40


def log_with(healthy: pa.Table, folder: Path, name: str, values: pa.Array) -> Path:
    table = healthy.slice(0, ROWS)
    path = folder / "rollouts.parquet"
    table = table.set_column(table.schema.get_field_index(name), name, values)
    pq.write_table(table.replace_schema_metadata(healthy.schema.metadata), path)
    return path


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("reward", ["1.0"] * ROWS, "column reward holds string from row 1 on, and double belongs there"),
        ("reward", [{"a": 1}] * ROWS, "column reward holds struct<a: int64> from row 1 on"),
        ("reward", [[1.0]] * ROWS, "column reward holds list<.*: double> from row 1 on"),
        ("truncated", ["x"] * ROWS, "column truncated holds string from row 1 on, and bool"),
        ("step", ["1"] * ROWS, "column step holds string from row 1 on, and int64"),
        ("step", [True] * ROWS, "column step holds bool from row 1 on"),
        ("step", [0] * 3 + [None] * (ROWS - 3), "column step is empty in row 4"),
        ("step", [0.0] * 5 + [0.5] * (ROWS - 5), "column step is no int64 in row 6"),
        ("step", [float("nan")] * ROWS, "column step is no int64 in row 1"),
        ("step", [-1] * ROWS, "column step has -1 in row 1, and cannot be negative"),
        ("step", [-(2**63)] * ROWS, "column step has -9223372036854775808 in row 1"),
        ("response_len", [4, 4] + [-3] * (ROWS - 2), "column response_len has -3 in row 3"),
        ("sample_id", ["one"] * ROWS, "column sample_id has one in every row from 1 on"),
    ],
)
def test_a_column_of_the_table_that_cannot_be(
    name: str, values: list[Any], said: str, healthy: pa.Table, tmp_path: Path
) -> None:
    path = log_with(healthy, tmp_path, name, pa.array(values))
    with pytest.raises(RolloutError, match=said) as error:
        open_rollouts(path)
    assert "rollouts.parquet: " in str(error.value)


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.decimal128(20, 4), pa.int32(), pa.null()])
def test_numbers_of_another_width_are_taken(kind: pa.DataType, healthy: pa.Table, tmp_path: Path) -> None:
    values = pa.nulls(ROWS) if pa.types.is_null(kind) else pa.array([1.0] * ROWS).cast(kind)
    path = log_with(healthy, tmp_path, "reward", values)
    (batch, *_) = open_rollouts(path).open(["reward"])
    assert set(batch.column("reward").to_pylist()) <= {1.0, None}


def test_damage_further_on_is_named_by_its_row(healthy: pa.Table, tmp_path: Path) -> None:
    rows = 20_000
    row = healthy.slice(0, 1)
    table = row.take(pa.array([0] * rows)).set_column(
        row.schema.get_field_index("sample_id"), "sample_id", pa.array(map(str, range(rows)))
    )
    lengths = pa.array([4] * (rows - 1) + [-1], pa.int32())
    table = table.set_column(row.schema.get_field_index("response_len"), "response_len", lengths)
    path = tmp_path / "rollouts.parquet"
    pq.write_table(table.replace_schema_metadata(healthy.schema.metadata), path)
    opened = open_rollouts(path)
    with pytest.raises(RolloutError, match=f"column response_len has -1 in row {rows}"):
        list(opened.open(["response_len"]))


def trl_file(folder: Path, step: int, **columns: pa.Array) -> Path:
    path = folder / f"completions_{step:05d}.parquet"
    fixed = {"step": pa.array([step] * 4), "prompt": pa.array(["p"] * 4), "completion": pa.array(list("abcd"))}
    pq.write_table(pa.table(fixed | columns), path)
    return path


@pytest.mark.parametrize("values", [["x"] * 4, [[[1]]] * 4])
def test_trl_rewards_that_are_no_numbers(values: list[Any], tmp_path: Path) -> None:
    trl_file(tmp_path, 1, exact_match=pa.array(values), advantage=pa.array([0.5] * 4))
    with pytest.raises(RolloutError, match=r"completions_00001\.parquet: no column of numbers .*exact_match holds"):
        open_rollouts(tmp_path)


def test_trl_rewards_that_turn_into_text(tmp_path: Path) -> None:
    trl_file(tmp_path, 1, exact_match=pa.array([1.0] * 4), length=pa.array([1.0] * 4))
    trl_file(tmp_path, 2, exact_match=pa.array(["x"] * 4), length=pa.array([1.0] * 4))
    opened = open_rollouts(tmp_path)
    with pytest.raises(RolloutError, match=r"completions_00002\.parquet: column exact_match holds string"):
        list(opened.open(["rewards"]))


def test_trl_may_log_texts_and_rewards_that_did_not_apply(tmp_path: Path) -> None:
    trl_file(tmp_path, 1, solved=pa.array([1.0] * 4), extra=pa.array(["x"] * 4), other=pa.nulls(4))
    trl_file(tmp_path, 2, solved=pa.nulls(4), extra=pa.array(["x"] * 4), other=pa.array([1.0] * 4))
    assert sum(batch.num_rows for batch in open_rollouts(tmp_path).open(["rewards"])) == 8


def test_verl_without_a_score(tmp_path: Path) -> None:
    """One that is missing is a sample without a reward; a file without any is damaged."""
    lines = [f'{{"input": "a", "output": "b", "score": {score}, "step": 1}}\n' for score in ("null", "1.0")]
    (tmp_path / "1.jsonl").write_text("".join(lines))
    assert open_rollouts(tmp_path).columns >= {"reward"}
    (tmp_path / "1.jsonl").write_text(lines[0] * 3)
    with pytest.raises(RolloutError, match=r"1.jsonl: score is null from line 1 on"):
        open_rollouts(tmp_path)


def test_a_row_that_does_not_fit_is_named(tmp_path: Path) -> None:
    lines = [f'{{"input": "a", "output": "b", "score": {score}, "step": 1}}\n' for score in ("1.0", '"x"')]
    (tmp_path / "1.jsonl").write_text("".join(lines))
    with pytest.raises(RolloutError, match=r"1.jsonl: reward does not fit its type double in row 2"):
        open_rollouts(tmp_path)


def test_a_curve_at_a_step_of_a_hundred_bits(tmp_path: Path) -> None:
    step = "1" + "0" * 30
    (tmp_path / "trainer_state.json").write_text(f'{{"log_history": [{{"step": {step}, "reward": 0.5}}]}}')
    with pytest.raises(RolloutError, match=f"{tmp_path}: reward_mean has a step of more than 63 bits"):
        read_scalars(tmp_path)
