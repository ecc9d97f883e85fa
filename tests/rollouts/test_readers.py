"""Every trainer's format gives the figures of the rollouts that were written, and hostile files one sentence."""

from __future__ import annotations

import importlib.util
import io
import os
import pickle  # noqa: TID251  (makes files that must not be run)
import sqlite3
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from ckptaudit.errors import CkptAuditError, RolloutError
from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.measure import measure
from ckptaudit.rollouts.quantities import metrics
from ckptaudit.rollouts.readers import open_rollouts, readers
from ckptaudit.rollouts.table import SCHEMA, write_table

ROOT = Path(__file__).parents[2]
FACTS = RunFacts(group_size=8)


def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rollout_formats", ROOT / "fixtures" / "rollout_formats.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    module, out = recipe(), tmp_path_factory.mktemp("formats")
    samples = module.made_up_samples()
    for name, write in module.FORMATS.items():
        write(samples, out / name)
    return samples, out


def expected(samples: list[dict[str, Any]], step: int) -> dict[str, float]:
    """Figures of a step by plain NumPy, from what was written."""
    mine = [s for s in samples if s["step"] == step]
    train = np.concatenate([s["logp_train"] for s in mine]).astype(np.float64)
    ratio = train - np.concatenate([s["logp_rollout"] for s in mine]).astype(np.float64)
    entropy = np.concatenate([s["entropy"] for s in mine]).astype(np.float64)
    rewards = np.array([s["reward"] for s in mine]).reshape(-1, 8)
    return {
        "mismatch_k3": float((np.exp(ratio) - ratio - 1).mean()),
        "mismatch_abs": float(np.abs(ratio).mean()),
        "ratio_bias": abs(float(np.exp(ratio).mean()) - 1),
        "surprisal_gap": abs(float((-train - entropy).mean())),
        "entropy_mean": float(entropy.mean()),
        "reward_mean": float(rewards.mean()),
        "zero_variance_share": float((rewards.max(1) == rewards.min(1)).mean()),
        "response_length": float(np.mean([len(s["token_ids"]) for s in mine])),
        "advantage_error": 0.0,
        "group_size_count": 0.0,
        "group_prompt_count": 0.0,
        "duplicate_share": 0.0,
        "misaligned_count": 0.0,
        "logp_impossible_count": 0.0,
    }


HOLDS = {
    "verl": "reward_mean zero_variance_share group_size_count group_prompt_count duplicate_share",
    "trl": "reward_mean zero_variance_share advantage_error group_size_count group_prompt_count duplicate_share",
    "nemo-rl": "mismatch_k3 mismatch_abs ratio_bias reward_mean zero_variance_share response_length "
    "advantage_error group_size_count group_prompt_count duplicate_share misaligned_count logp_impossible_count",
    "slime": "mismatch_k3 mismatch_abs ratio_bias surprisal_gap entropy_mean reward_mean zero_variance_share "
    "response_length advantage_error group_size_count group_prompt_count duplicate_share misaligned_count "
    "logp_impossible_count",
    "prime-rl": "mismatch_k3 mismatch_abs ratio_bias surprisal_gap entropy_mean response_length misaligned_count "
    "logp_impossible_count",
    "skyrl": "mismatch_k3 mismatch_abs ratio_bias response_length misaligned_count logp_impossible_count",
    "areal": "reward_mean zero_variance_share response_length group_size_count group_prompt_count duplicate_share",
    "trinity-rft": "reward_mean zero_variance_share response_length advantage_error group_size_count "
    "group_prompt_count duplicate_share misaligned_count logp_impossible_count",
    "trinity-rft-lines": "reward_mean zero_variance_share response_length advantage_error group_size_count "
    "group_prompt_count duplicate_share misaligned_count logp_impossible_count",
}


@pytest.mark.parametrize("name", sorted(HOLDS))
def test_a_format_gives_the_figures_that_it_holds_and_no_others(
    name: str, written: tuple[list[dict[str, Any]], Path]
) -> None:
    samples, out = written
    table = open_rollouts(out / name, FACTS)
    assert table.trainer == name.removesuffix("-lines")
    figures = {f"step {step}": expected(samples, step) for step in range(3)}
    wanted = next(iter(figures.values())).keys()
    found = {(r.metric, r.subject): r.value for r in measure(table, FACTS, wanted) if r.subject != "run"}
    assert {metric for metric, _ in found} == set(HOLDS[name].split())
    for (metric, subject), value in found.items():
        assert value == pytest.approx(figures[subject][metric], rel=2e-6, abs=2e-6), (metric, subject)


@pytest.mark.parametrize("name", sorted(HOLDS))
def test_converting_changes_no_figure(
    name: str, written: tuple[list[dict[str, Any]], Path], tmp_path: Path
) -> None:
    table = open_rollouts(written[1] / name, FACTS)
    assert write_table(tmp_path / "table.parquet", table.open(SCHEMA.names)) == 192
    again = open_rollouts(tmp_path / "table.parquet", FACTS)
    assert again.trainer == "ckptaudit"
    assert again.columns == table.columns
    able = [m.name for m in metrics().values() if set(m.needs) <= table.columns]
    for before, after in zip(measure(table, FACTS, able), measure(again, FACTS, able), strict=True):
        assert (before.metric, before.subject, before.samples) == (after.metric, after.subject, after.samples)
        if before.value is None:
            assert after.value is None
        else:
            assert before.value == pytest.approx(after.value, rel=1e-9, abs=1e-12)


def test_missing_columns_say_which_option_records_them(written: tuple[list[dict[str, Any]], Path]) -> None:
    (reading,) = measure(open_rollouts(written[1] / "verl"), RunFacts(), ["mismatch_k3"])
    assert reading.value is None
    assert "calculate_log_probs" in reading.remark


def test_every_reader_describes_itself() -> None:
    assert len(readers()) == 9
    for reader in readers():
        assert set(SCHEMA.names) >= reader.COLUMNS
        assert not set(reader.MISSING) - set(SCHEMA.names)


def one_line(error: pytest.ExceptionInfo[CkptAuditError]) -> str:
    text = str(error.value)
    assert text.isprintable()
    assert text.endswith(".")
    return text


def read_all(path: Path) -> list[Any]:
    return list(open_rollouts(path, FACTS).open(SCHEMA.names))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("1.jsonl", '{"input": "a", "output": "b", "score": 1}\n{"input": 3}\n', "line 2"),
        ("1.jsonl", '{"input": "a", "output": "b", "score": "high"}\n', "reward does not fit"),
        ("1.jsonl", '{"input": "a", "output": "b", "score": 1}\n{nonsense}\n', "line 2"),
        ("train_data_step1.jsonl", '{"token_loss_mask": [[1]], "generation_logprobs": [["x"]]}\n', "line 1"),
        ("step_1/rank_0.jsonl", '{"token_ids": [1], "loss_mask": ["no"]}\n', "line 1"),
        ("completions_00001.parquet", "not parquet", "Parquet"),
    ],
)
def test_damaged_text_ends_in_one_sentence(name: str, content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(RolloutError) as error:
        read_all(tmp_path)
    assert said in one_line(error)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("val", "eval"), ("validation_data", "eval"), ("eval-2", "eval"), ("Val_rollouts", "eval"),
        ("val2", "eval"),
        ("value_baseline_run", "train"), ("evalplus", "train"), ("rollouts", "train"), ("valley", "train"),
    ],
)  # fmt: skip
def test_the_name_of_a_folder_of_verl_tells_evaluation(name: str, split: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "1.jsonl").write_text('{"input": "a", "output": "b", "score": 1}\n')
    (batch,) = read_all(tmp_path / name)
    assert batch.column("split").to_pylist() == [split]


def test_an_empty_first_file_hides_no_log(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text("")
    (tmp_path / "2.jsonl").write_text('{"input": "a", "output": "b", "score": 1}\n')
    (batch,) = read_all(tmp_path)
    assert batch.column("step").to_pylist() == [2]


def test_a_last_line_that_a_killed_run_left_unfinished_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text('{"input": "a", "output": "b", "score": NaN}\n{"input": "a", "outp')
    (batch,) = read_all(tmp_path)
    assert batch.num_rows == 1


@pytest.mark.parametrize("name", ["1.jsonl", "global_step_1_training_input.pkl"])
def test_a_pipe_is_refused(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(RolloutError) as error:
        read_all(tmp_path)
    one_line(error)


class Bomb:
    def __reduce__(self) -> Any:
        return (os.system, ("touch /tmp/ckptaudit-was-run",))


def test_pickles_run_nothing(tmp_path: Path) -> None:
    marker = Path("/tmp/ckptaudit-was-run")
    (tmp_path / "rollout_data").mkdir()
    torch.save({"samples": [{"metadata": Bomb()}]}, tmp_path / "rollout_data" / "1.pt")
    skyrl = tmp_path / "sky"
    skyrl.mkdir()
    (skyrl / "global_step_1_training_input.pkl").write_bytes(pickle.dumps({"batch_dict": Bomb()}))
    for folder in (tmp_path, skyrl):
        with pytest.raises(RolloutError) as error:
            read_all(folder)
        assert "nothing of it was run" in one_line(error)
    assert not marker.exists()


def test_bytes_within_a_pickle_run_nothing(tmp_path: Path) -> None:
    inner = io.BytesIO()
    torch.save(Bomb(), inner)
    data = {"batch_dict": {"sequences": inner.getvalue()}}
    (tmp_path / "global_step_1_training_input.pkl").write_bytes(pickle.dumps(data))
    with pytest.raises(RolloutError, match="nothing of it was run"):
        read_all(tmp_path)


def test_a_database_of_something_else_is_not_taken(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE people (name TEXT)")
    connection.close()
    with pytest.raises(RolloutError, match="no log of rollouts that is known"):
        open_rollouts(tmp_path)


def test_a_database_with_a_bomb_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "buffer.db") as connection:
        connection.execute("CREATE TABLE e (id INTEGER, reward REAL, model_version INTEGER, experience_bytes BLOB)")
        connection.execute("INSERT INTO e VALUES (1, 0, 0, ?)", (pickle.dumps(Bomb()),))
    connection.close()
    with pytest.raises(RolloutError, match="nothing of it was run"):
        read_all(tmp_path)


def test_a_folder_of_nothing_known_names_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "notes\x1b[31m.txt").write_text("")
    with pytest.raises(RolloutError) as error:
        open_rollouts(tmp_path)
    assert "NeMo" not in one_line(error)
    assert "nemo-rl (train_data_step*.jsonl)" in str(error.value)


def test_arrays_of_numpy_in_a_pickle_are_read() -> None:
    from ckptaudit.rollouts.pickled import pickle_contents

    value: dict[str, Any] = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.int64(4),
        "t": torch.tensor([1.5, 2.5]),
    }
    found = pickle_contents(io.BytesIO(pickle.dumps(value)), Path("x.pkl"), ())
    assert np.array_equal(found["a"], value["a"])
    assert found["b"] == 4
    assert found["t"].tolist() == [1.5, 2.5]
