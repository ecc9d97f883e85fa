"""Recorders for verl and OpenRLHF, on verl's own batches where it is installed and on stand-ins."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ckptaudit.integrations.openrlhf import OpenRlhfRecorder
from ckptaudit.integrations.verl import VerlRecorder
from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.measure import measure
from ckptaudit.rollouts.readers import open_rollouts
from ckptaudit.rollouts.table import SCHEMA

GROUPS, SIZE, PROMPT, WIDTH = 10, 8, 5, 40


@dataclass
class Made:
    """Padded tensors of 80 samples, as both trainers keep them."""

    prompts: torch.Tensor
    responses: torch.Tensor
    attended: torch.Tensor
    mask: torch.Tensor
    engine: torch.Tensor
    trainer: torch.Tensor
    rewards: torch.Tensor
    groups: list[str]

    @property
    def k3(self) -> float:
        gap = (self.trainer - self.engine).double()[self.mask.bool()]
        return float((gap.exp() - gap - 1).mean())


@pytest.fixture
def made() -> Made:
    torch.manual_seed(0)
    count = GROUPS * SIZE
    lengths = torch.randint(WIDTH // 2, WIDTH + 1, (count,))
    there = torch.arange(WIDTH)[None] < lengths[:, None]
    places = torch.arange(PROMPT)[None]
    prompts = torch.arange(GROUPS).repeat_interleave(SIZE)[:, None] + 1 + places
    padding = places >= torch.randint(0, 3, (GROUPS,)).repeat_interleave(SIZE)[:, None]
    mask = there.clone()
    mask[:, 10:13] = False  # a tool spoke here
    trainer = -torch.rand(count, WIDTH) * there
    return Made(
        prompts * padding, torch.randint(1, 90, (count, WIDTH)) * there, torch.cat([padding, there], 1).long(),
        mask.long(), (trainer + 0.05 * torch.randn(count, WIDTH)) * there, trainer,
        (torch.rand(count) < 0.5).float(),
        [str(group) for group in range(GROUPS) for _ in range(SIZE)],
    )  # fmt: skip


def figures(folder: Path, convention: str) -> dict[str, float | None]:
    facts = RunFacts(group_size=SIZE, advantage=convention)
    wanted = ["mismatch_k3", "advantage_error", "group_prompt_count", "group_size_count", "misaligned_count"]
    found = measure(open_rollouts(folder, facts), facts, wanted)
    return {reading.metric: reading.value for reading in found if reading.subject == "step 7"}


def holds(found: dict[str, float | None], made: Made) -> None:
    assert found["mismatch_k3"] == pytest.approx(made.k3, rel=1e-5)
    assert found["advantage_error"] == pytest.approx(0, abs=1e-5)
    assert found["group_prompt_count"] == found["group_size_count"] == found["misaligned_count"] == 0


def stand_in_batch(made: Made) -> Any:
    rewards = torch.zeros(len(made.rewards), WIDTH)
    rewards[:, 0] = made.rewards
    groups = made.rewards.reshape(GROUPS, SIZE)
    scaled = ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-6)).reshape(-1)
    batch = {
        "prompts": made.prompts, "responses": made.responses, "attention_mask": made.attended,
        "response_mask": made.mask, "rollout_log_probs": made.engine, "old_log_probs": made.trainer,
        "token_level_rewards": rewards, "advantages": scaled[:, None] * made.mask,
    }  # fmt: skip
    return SimpleNamespace(batch=batch, non_tensor_batch={"uid": np.array(made.groups, dtype=object)})


class Trainer:
    """The three names of RayPPOTrainer that the recorder takes hold of."""

    global_steps = 7

    def __init__(self, entropy: torch.Tensor) -> None:
        self.entropy, self.updated = entropy, 0

    def _compute_old_log_prob(self, batch: Any) -> Any:
        return SimpleNamespace(batch={"entropys": self.entropy}), 0.5

    def _update_actor(self, batch: Any) -> str:
        self.updated += 1
        return "metrics"


def test_verl_batches_are_recorded_before_the_update(made: Made, tmp_path: Path) -> None:
    trainer: Any = Trainer(torch.ones_like(made.trainer))
    recorder = VerlRecorder(tmp_path).attach(trainer)
    batch = stand_in_batch(made)
    trainer._compute_old_log_prob(batch)
    assert trainer._update_actor(batch) == "metrics"
    recorder.close()
    assert trainer.updated == 1
    holds(figures(tmp_path, "verl"), made)
    rows = [row for part in open_rollouts(tmp_path).open(SCHEMA.names) for row in part.to_pylist()]
    assert rows[0]["entropy"] == [1.0] * rows[0]["response_len"]
    assert rows[0]["loss_mask"][9:14] == [True, False, False, False, True]


@pytest.mark.skipif(find_spec("verl") is None, reason="verl is not installed, and needs a GPU's libraries")
def test_verls_own_batches_and_advantages(made: Made, tmp_path: Path) -> None:
    from verl import protocol
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    stand_in = stand_in_batch(made)
    tensors = dict(stand_in.batch)
    tensors["advantages"], _ = compute_grpo_outcome_advantage(
        tensors["token_level_rewards"], made.mask, stand_in.non_tensor_batch["uid"]
    )
    batch = protocol.DataProto.from_dict(tensors=tensors, non_tensors=stand_in.non_tensor_batch)
    recorder = VerlRecorder(tmp_path)
    recorder.record_batch(batch, 7)
    recorder.close()
    holds(figures(tmp_path, "verl"), made)


def test_a_batch_that_cannot_be_recorded_does_not_end_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = VerlRecorder(tmp_path)
    recorder.record_batch(SimpleNamespace(batch={}, non_tensor_batch={}), 1)
    recorder.close()
    assert "not recorded" in caplog.text


def test_openrlhf_experiences_are_recorded(made: Made, tmp_path: Path) -> None:
    groups = made.rewards.reshape(GROUPS, SIZE)
    scaled = ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-9)).reshape(-1)
    order = torch.randperm(len(scaled))
    parts = [_experience(made, scaled, part) for part in order.split(16)]
    maker = SimpleNamespace(make_experience_batch=lambda samples: parts)
    recorder = OpenRlhfRecorder(tmp_path, samples_per_prompt=SIZE, first_step=7).attach(maker)
    assert maker.make_experience_batch([]) is parts
    recorder.close()
    holds(figures(tmp_path, "openrlhf"), made)


def _experience(made: Made, advantages: torch.Tensor, part: torch.Tensor) -> Any:
    sequences = torch.cat([made.prompts, made.responses], 1)[part]
    before = torch.zeros(len(part), PROMPT - 1)

    def actions(values: torch.Tensor) -> torch.Tensor:
        return torch.cat([before.to(values.dtype), values[part]], 1)  # actions count from the second token on

    return SimpleNamespace(
        sequences=sequences, attention_mask=made.attended[part], action_mask=actions(made.mask).bool(),
        action_log_probs=actions(made.trainer), rollout_log_probs=actions(made.engine), base_action_log_probs=None,
        advantages=actions(advantages[:, None] * made.mask), rewards=made.rewards[part], truncated=None,
        index=part.tolist(),
    )  # fmt: skip
