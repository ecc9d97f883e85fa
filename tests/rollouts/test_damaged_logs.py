"""Damage that fuzzing found: each ends in one clean sentence. `make fuzz` damages every format that is read."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ckptaudit import audit
from ckptaudit.errors import RolloutError
from ckptaudit.rollouts.measure import SIDE_BY_SIDE
from ckptaudit.rollouts.quantities import metrics
from ckptaudit.rollouts.readers import open_rollouts
from ckptaudit.rollouts.scalars import read_scalars
from ckptaudit.rollouts.table import write_table
from fixtures.rollout_formats import FORMATS, made_up_samples
from fuzz.log_targets import CURVES, KINDS, read_curves, read_log, written_log
from tests.rollouts.judged import readings


@pytest.mark.parametrize("name", KINDS)
def test_the_honest_log_that_is_damaged_is_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    written_log(name)(tmp_path / "files")
    read_log(tmp_path / "files")


@pytest.mark.parametrize("name", CURVES)
def test_the_honest_curves_that_are_damaged_are_read(name: str, tmp_path: Path) -> None:
    CURVES[name][1](tmp_path)
    read_curves(tmp_path)
    assert read_scalars(tmp_path)["reward_mean"]


@pytest.mark.parametrize("column", ["run", "logp_train"])
def test_a_column_whose_name_is_no_text(column: str, healthy: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "rollouts.parquet"
    write_table(path, healthy.slice(0, 50).to_batches())
    path.write_bytes(path.read_bytes().replace(column.encode(), b"\xc9" + column.encode()[1:]))
    with pytest.raises(RolloutError) as error:
        list(open_rollouts(path).open([column]))
    assert str(error.value).isprintable()


def test_a_database_whose_schema_is_no_text(tmp_path: Path) -> None:
    path = CURVES["mlflow"][1](tmp_path)
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE", b"CREATE \xe9ABLE"))
    with pytest.raises(UnicodeDecodeError), closing(sqlite3.connect(path)) as store:
        store.execute("SELECT * FROM metrics")
    with pytest.raises(RolloutError, match="no scalars that are known"):
        read_scalars(tmp_path)


@pytest.mark.parametrize("token", [float("nan"), 1e30, 2**31, 0.5])
def test_token_ids_that_are_no_whole_numbers_of_32_bits(token: float, tmp_path: Path) -> None:
    written_log("nemo-rl")(tmp_path)
    path = tmp_path / "train_data_step0.jsonl"
    first, *others = path.read_text().splitlines()
    line: dict[str, Any] = json.loads(first)
    line["token_ids"][0][10] = token
    path.write_text("\n".join([json.dumps(line), *others]))
    with pytest.raises(RolloutError, match="no whole numbers of 32 bits"):
        list(open_rollouts(tmp_path).open(["token_ids"]))


def test_a_reward_that_is_nan_closes_the_gate_and_one_that_is_missing_does_not(tmp_path: Path) -> None:
    """As verl logs them, from the command line."""
    FORMATS["verl"](made_up_samples(), tmp_path / "verl")
    assert audit(rollouts=tmp_path / "verl").passed
    path = tmp_path / "verl" / "1.jsonl"
    honest = path.read_text()
    path.write_text(honest.replace('"score": 1.0', '"score": null', 1))
    assert audit(rollouts=tmp_path / "verl").passed
    path.write_text(honest.replace('"score": 1.0', '"score": NaN', 1))
    command = [sys.executable, "-m", "pytest", "-q", "--audit-rollouts=verl"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert "gate CLOSED, worst: rewards-finite at" in told.stdout


def test_logs_of_two_trainers_in_one_folder_are_refused(tmp_path: Path) -> None:
    for name in ("verl", "trl"):
        FORMATS[name](made_up_samples(), tmp_path)
    with pytest.raises(RolloutError, match="logs of trl and verl in one folder"):
        open_rollouts(tmp_path)


def test_the_table_of_the_recorder_may_lie_beside_what_the_trainer_logs(healthy: pa.Table, tmp_path: Path) -> None:
    FORMATS["trl"](made_up_samples(), tmp_path)
    write_table(tmp_path / "rollouts.parquet", healthy.slice(0, 50).to_batches())
    assert open_rollouts(tmp_path).trainer == "ckptaudit"


def test_a_damaged_pickle_names_one_page(tmp_path: Path) -> None:
    path = written_log("slime")(tmp_path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(RolloutError) as error:
        open_rollouts(tmp_path)
    assert str(error.value).count("See docs/") == 1


@pytest.mark.parametrize("name", ["token_ids", "entropy", "inference_logprobs"])
def test_a_number_where_a_list_of_a_sequence_belongs(name: str, tmp_path: Path) -> None:
    path = written_log("prime-rl")(tmp_path)
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(first), name: 7}), *others]))
    with pytest.raises(RolloutError, match="line 1 is no sequence of prime-rl"):
        list(open_rollouts(tmp_path).open(["logp_train"]))


@pytest.mark.parametrize("bytes_side_by_side", [0, SIDE_BY_SIDE])
@pytest.mark.parametrize("reward", [1e300, -1e300])
def test_rewards_whose_squares_overflow_raise_no_warning(
    reward: float, bytes_side_by_side: int, healthy: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckptaudit.rollouts.measure.SIDE_BY_SIDE", bytes_side_by_side)
    at, rewards = healthy.column_names.index("reward"), healthy["reward"].to_pylist()
    rewards[::50] = [reward] * len(rewards[::50])
    damaged = healthy.set_column(at, healthy.schema.field(at), pa.array(rewards, type=pa.float64()))
    # A warning would be an error here.
    found = {r.subject: r for r in readings(damaged, *metrics()) if r.metric == "reward_mean"}
    assert found["step 1"].value == pytest.approx(reward / 50, rel=0.5)
