"""Curves from files that the real writers wrote, and the same from all stores."""

from __future__ import annotations

import json
import math
import sqlite3
import struct
from pathlib import Path

import pytest

from ckptaudit.errors import RolloutError
from ckptaudit.rollouts.scalars import read_scalars
from ckptaudit.rollouts.scalars.names import canonical_name

FIXTURES = Path(__file__).parents[2] / "fixtures" / "rollouts"


def test_tensorboard_files_of_its_own_writer(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "run")) as writer:
        for step in range(12_000):  # more than the sample that its own loader keeps
            writer.add_scalar("train/reward", step / 4, step)
        writer.add_scalar("train/grad_norm", math.nan, 5)
        writer.add_scalar("actor/entropy", 0.5, 7, new_style=True)
        writer.add_text("notes", "not a number", 1)
    curves = read_scalars(tmp_path)
    assert curves["reward_mean"] == {step: step / 4 for step in range(12_000)}
    assert math.isnan(curves["grad_norm"][5])
    assert curves["entropy"] == {7: 0.5}


def test_a_wandb_file_of_its_own_writer() -> None:
    curves = read_scalars(FIXTURES / "wandb-0.31.0")
    assert curves["reward_mean"] == pytest.approx({step: 0.1 * step for step in range(90)})
    assert math.isnan(curves["grad_norm"][3])
    assert curves["grad_norm"][4] == 5.0


def wandb_file(*histories: bytes) -> bytes:
    """A log of short histories, from the layout: type and length of each field, and a header before each record."""
    records = [field(2, history) for history in histories]
    return b":W&B\xe1\xbe\x00" + b"".join(b"1234" + struct.pack("<HB", len(r), 1) + r for r in records)


def field(number: int, content: bytes) -> bytes:
    tag = number << 3 | 2
    return (bytes([tag]) if tag < 128 else bytes([tag & 127 | 128, tag >> 7])) + bytes([len(content)]) + content


def item(name: str, value: str) -> bytes:
    return field(1, field(2, name.encode()) + field(16, value.encode()))


def test_a_step_of_wandb_that_only_its_record_has(tmp_path: Path) -> None:
    """A step of 0 is an empty message there, as protocol buffers leave zeros out."""
    histories = [item("reward", "0.5") + field(2, b""), item("reward", "0.75") + field(2, b"\x08\x07")]
    (tmp_path / "run-1.wandb").write_bytes(wandb_file(*histories))
    assert read_scalars(tmp_path) == {"reward_mean": {0: 0.5, 7: 0.75}}


def test_a_step_of_wandb_that_is_no_number_is_passed_over(tmp_path: Path) -> None:
    histories = [item("reward", "0.5") + item("_step", step) for step in ('"NaN"', '"Infinity"', "3")]
    (tmp_path / "run-1.wandb").write_bytes(wandb_file(*histories))
    assert read_scalars(tmp_path) == {"reward_mean": {3: 0.5}}


def test_a_run_folder_of_mlflow(tmp_path: Path) -> None:
    folder = tmp_path / "1" / "0a1b" / "metrics" / "actor"
    folder.mkdir(parents=True)
    (folder.parents[1] / "meta.yaml").write_text("run_id: 0a1b\n")
    (folder / "grad_norm").write_text("1700000000000 0.5 0\n1700000000001 nan 1\n")
    curve = read_scalars(tmp_path)["grad_norm"]
    assert curve[0] == 0.5
    assert math.isnan(curve[1])


def mlflow_database(path: Path, runs: int = 1) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE metrics (key TEXT, value REAL, timestamp INTEGER, run_uuid TEXT, step INT, is_nan INT)"
        )
        rows = [("reward", step / 2, step, f"run{step % runs}", step, step == 2) for step in range(4)]
        connection.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?, ?, ?)", rows)
    connection.close()


def test_mlflow_in_sqlite(tmp_path: Path) -> None:
    mlflow_database(tmp_path / "mlflow.db")
    curve = read_scalars(tmp_path)["reward_mean"]
    assert math.isnan(curve.pop(2))
    assert curve == {0: 0.0, 1: 0.5, 3: 1.5}


def test_several_runs_of_mlflow_are_refused(tmp_path: Path) -> None:
    mlflow_database(tmp_path / "mlflow.db", runs=2)
    with pytest.raises(RolloutError, match="more than one run"):
        read_scalars(tmp_path)


def test_verl_and_prime_rl_json_lines(tmp_path: Path) -> None:
    lines = [
        {"step": step, "data": {"actor/grad_norm": 1.0 + step, "val-core/x/acc/mean@1": 0.5}} for step in (1, 2)
    ]
    (tmp_path / "verl.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    flat = [{"step": step, "time": 1.5, "reward/all/mean": step / 2} for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in flat))
    assert read_scalars(tmp_path) == {"grad_norm": {1: 2.0, 2: 3.0}, "reward_mean": {1: 0.5, 2: 1.0}}


@pytest.mark.parametrize("turned", [False, True])
def test_of_two_names_of_one_quantity_the_first_known_counts(turned: bool, tmp_path: Path) -> None:
    logged = {"critic/score/mean": 0.75, "critic/rewards/mean": 0.25}
    data = dict(reversed(logged.items())) if turned else logged
    (tmp_path / "verl.jsonl").write_text("".join(json.dumps({"step": s, "data": data}) + "\n" for s in (1, 2, 2)))
    assert read_scalars(tmp_path) == {"reward_mean": {1: 0.75, 2: 0.75}}


def test_trainer_state_of_a_real_run() -> None:
    curves = read_scalars(FIXTURES / "healthy")
    assert sorted(curves["reward_mean"]) == list(range(1, 21))
    assert {"entropy", "grad_norm", "len_mean", "truncated_share", "zero_var_share"} <= curves.keys()


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("critic/score/mean", "reward_mean"),
        ("train/token_mult_prob_error", "mismatch_mult"),
        ("rollout_corr/k3_kl", "mismatch_k3"),
        ("train/sampling/importance_sampling_ratio/mean", "ratio_mean_truncated"),
        ("rollout/response_len/mean", "len_mean"),
        ("eval_reward", None),
        ("x" * 600, None),
    ],
)
def test_names(name: str, canonical: str | None) -> None:
    assert canonical_name(name) == canonical


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("events.out.tfevents.1", struct.pack("<Q", 2**60) + b"1234" + b"x" * 100),
        ("events.out.tfevents.1", struct.pack("<Q", 4) + b"1234" + b"\x2a\xff\xff\xff" + b"1234"),
        ("run-1.wandb", b":W&B" + b"\0" * 60),
        ("run-1.wandb", b":W&B\xe1\xbe\x00" + b"1234" + struct.pack("<HB", 2, 9) + b"xx"),
        ("trainer_state.json", b'{"log_history": 3}'),
        ("trainer_state.json", b"[" * 100_000),
        ("mlflow.db", b"not a database"),
    ],
)
def test_damaged_files_end_in_one_sentence(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RolloutError) as error:
        read_scalars(tmp_path)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("cut", [1, 3, 20, 1000])
def test_what_a_killed_run_left_unfinished_is_passed_over(cut: int, tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(100):
            writer.add_scalar("reward", float(step), step)
    (file,) = tmp_path.glob("events*")
    file.write_bytes(file.read_bytes()[:-cut])
    curve = read_scalars(tmp_path)["reward_mean"]
    assert curve == {step: float(step) for step in range(len(curve))}
    assert 60 < len(curve) < 100
