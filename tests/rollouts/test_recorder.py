"""The TRL recorder beside a real GRPO training of a tiny model, with and without an engine of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.measure import measure
from ckptaudit.rollouts.readers import open_rollouts
from ckptaudit.rollouts.scalars import read_scalars
from ckptaudit.rollouts.table import SCHEMA

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "fixtures"))
STEPS = 3


def trained(out: Path, *, engine: bool, **options: Any) -> Any:
    """A run of three steps of four groups of four; returns the recorder and the trainer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from rollout_recipe import BASE, Engine, brackets, exact_match, rows
        from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, set_seed
        from trl import GRPOConfig, GRPOTrainer  # type: ignore[attr-defined]

        from ckptaudit.integrations.trl import TrlRecorder

        set_seed(0)
        settings = GRPOConfig(
            output_dir=str(out), max_steps=STEPS, use_cpu=True, bf16=False, learning_rate=1e-3,
            per_device_train_batch_size=16, num_generations=4, max_completion_length=12, beta=0.0,
            logging_steps=1, save_strategy="no", report_to="none", log_completions=True, num_completions_to_print=0,
            **options,
        )  # fmt: skip
        model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
        trainer = GRPOTrainer(
            model, [exact_match, brackets], settings, rows(0, 64),
            processing_class=PreTrainedTokenizerFast.from_pretrained(BASE),
            rollout_func=Engine(behind=False) if engine else None,
        )  # fmt: skip
        recorder = TrlRecorder(out / "rollouts").attach(trainer)
        trainer.train()
        trainer.state.save_to_json(str(out / "trainer_state.json"))
    return recorder, trainer


@pytest.fixture(scope="module")
def with_engine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    out = tmp_path_factory.mktemp("engine")
    return out, *trained(out, engine=True)


def recorded(out: Path) -> list[dict[str, Any]]:
    return [row for batch in open_rollouts(out / "rollouts").open(SCHEMA.names) for row in batch.to_pylist()]


def test_every_sample_is_recorded_with_both_sides(with_engine: tuple[Path, Any, Any]) -> None:
    rows = recorded(with_engine[0])
    assert [row["step"] for row in rows] == [step for step in (1, 2, 3) for _ in range(16)]
    assert len({row["sample_id"] for row in rows}) == 48
    for row in rows:
        size = row["response_len"]
        lists = ("token_ids", "loss_mask", "logp_rollout", "logp_train", "entropy")
        assert {len(row[name]) for name in lists} == {size}
        assert row["version_first"] == row["version_train"] == row["step"] - 1
    assert sum(row["truncated"] for row in rows) < 48


def test_log_probabilities_are_those_of_the_models(with_engine: tuple[Path, Any, Any]) -> None:
    """The first step's policy is the base: both sides recomputed by a plain forward pass."""
    import torch
    from rollout_recipe import BASE
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(BASE)
    for row in recorded(with_engine[0])[:5]:
        prompt = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[*prompt, *row["token_ids"]]])
        with torch.no_grad():
            logs = model(ids).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
        mine = logs.gather(-1, ids[0, len(prompt) :, None])[:, 0].numpy()
        entropy = -(logs.exp() * logs).sum(-1).numpy()
        assert np.allclose(row["logp_train"], mine, atol=1e-4)
        assert np.allclose(row["logp_rollout"], mine, atol=1e-4)
        assert np.allclose(row["entropy"], entropy, atol=1e-4)
        assert row["prompt_len"] == len(prompt)


def test_an_engine_of_its_own_shows_as_mismatch(with_engine: tuple[Path, Any, Any]) -> None:
    rows = recorded(with_engine[0])
    gap = [np.abs(np.subtract(row["logp_train"], row["logp_rollout"])).mean() for row in rows if row["step"] == 3]
    assert 1e-4 < np.mean(gap) < 0.3


def test_groups_advantages_and_curves_agree(with_engine: tuple[Path, Any, Any]) -> None:
    facts = RunFacts(group_size=4, advantage="trl")
    table, curves = open_rollouts(with_engine[0] / "rollouts", facts), read_scalars(with_engine[0])
    wanted = ["group_size_count", "group_prompt_count", "advantage_error", "scalar_disagreement", "staleness"]
    found = list(measure(table, facts, wanted, scalars=curves))
    assert {reading.metric for reading in found} == set(wanted)
    assert all(reading.value is not None and reading.value < 1e-3 for reading in found), found


def test_the_recorded_table_says_what_trl_wrote_itself(with_engine: tuple[Path, Any, Any]) -> None:
    theirs = open_rollouts(with_engine[0])
    assert theirs.trainer == "trl"
    read = [row for batch in theirs.open(SCHEMA.names) for row in batch.to_pylist()]
    files = sorted((with_engine[0] / "completions").glob("*.parquet"))
    assert len(files) == STEPS
    assert pq.read_schema(files[0]).field("step").type == "int64"
    key = ("step", "prompt", "response", "advantage")
    ours = [tuple(row[name] for name in key) for row in recorded(with_engine[0])]
    assert sorted(ours) == sorted(tuple(row[name] for name in key) for row in read)
    assert [dict(row["rewards"]).keys() for row in read[:1]] == [{"exact_match", "brackets"}]


def test_recording_takes_a_small_share_of_the_time(with_engine: tuple[Path, Any, Any]) -> None:
    _, recorder, trainer = with_engine
    took = sum(entry.get("train_runtime", 0.0) for entry in trainer.state.log_history)
    assert 0 < recorder.seconds < 0.1 * took, (recorder.seconds, took)


def test_without_an_engine_the_policy_is_recorded_alone(tmp_path: Path) -> None:
    trained(tmp_path, engine=False, steps_per_generation=2, num_iterations=1)
    rows = recorded(tmp_path)
    assert {row["logp_rollout"] is None for row in rows} == {True}
    # One generation serves two updates, so its second half is a version old.
    ages = [row["version_train"] - row["version_first"] for row in rows]
    assert set(ages) == {0, 1}
    assert all(row["logp_train"] is not None for row in rows)
    learnt = [row for row in rows if row["logp_new"] is not None]  # the last generation's second half never was
    assert len(learnt) == 3 * 16
    moved = [np.abs(np.subtract(r["logp_new"], r["logp_train"])).max() for r in learnt if r["version_train"] == 1]
    assert max(moved) > 1e-4


def test_a_killed_run_leaves_complete_files(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from ckptaudit.integrations.recording import RolloutLog\n"
        "log = RolloutLog(sys.argv[1])\n"
        "for step in range(10_000):\n"
        "    log.put([{'step': step, 'sample_id': str(i), 'prompt_hash': bytes(16), 'logp_train': [-0.5] * 2000}\n"
        "             for i in range(50)])\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], env={**os.environ}) as run:
        deadline = time.monotonic() + 30
        while len(list(tmp_path.glob("rollouts-*.parquet"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        run.send_signal(signal.SIGKILL)
    steps = [row.as_py() for batch in open_rollouts(tmp_path).open(["step"]) for row in batch.column("step")]
    assert len(steps) % 50 == 0
    assert len(steps) >= 150
    assert sorted(set(steps)) == list(range(len(steps) // 50))


def test_a_disk_that_fails_does_not_end_the_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from ckptaudit.integrations.recording import RolloutLog

    (tmp_path / "file").write_text("")
    log = RolloutLog(tmp_path / "file" / "rollouts")
    for step in range(20):
        log.put([{"step": step, "sample_id": "a", "prompt_hash": bytes(16)}])
    log.close()
    assert "no longer recorded" in caplog.text
