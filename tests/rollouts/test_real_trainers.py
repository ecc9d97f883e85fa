"""Recorders on the trainers' own classes, where their packages can be imported; what needs GPUs stands in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from ckptaudit.integrations.openrlhf import OpenRlhfRecorder
from ckptaudit.integrations.verl import VerlRecorder
from tests.rollouts.test_other_recorders import PROMPT, SIZE, Made, figures, holds, made, stand_in_batch

__all__ = ["made"]


def there(*packages: str) -> bool:
    return all(find_spec(package) is not None for package in packages)


class Workers:
    """verl's worker group: the forward pass gives what was made, an update changes nothing."""

    def __init__(self, made: Made) -> None:
        self.made, self.updates = made, 0

    def compute_log_prob(self, batch: Any) -> Any:
        from verl.utils import tensordict_utils

        lengths = batch["input_ids"].offsets().diff().tolist()
        response = self.made.attended[:, PROMPT:].sum(1).tolist()
        # The forward pass has at place t what belongs to token t + 1.
        flat = torch.zeros(sum(lengths))
        for end, own, values in zip(
            torch.tensor(lengths).cumsum(0).tolist(), response, self.made.trainer, strict=True
        ):
            flat[end - own - 1 : end - 1] = values[:own]
        nested = torch.nested.nested_tensor_from_jagged(flat, offsets=batch["input_ids"].offsets())
        found = {"log_probs": nested, "entropy": nested * 0 + 1.5}
        return tensordict_utils.get_tensordict(found, non_tensor_dict={"metrics": {"mfu": 0.5}})

    def update_actor(self, batch: Any) -> Any:
        from verl.utils import tensordict_utils

        self.updates += 1
        return tensordict_utils.get_tensordict({}, non_tensor_dict={"metrics": {"mfu": 0.5, "loss": 1.0}})


@pytest.mark.skipif(not there("verl", "ray", "torchdata", "omegaconf"), reason="verl and what it imports")
def test_the_hooks_of_verls_ray_trainer(made: Made, tmp_path: Path) -> None:
    from omegaconf import OmegaConf
    from verl.protocol import DataProto
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage
    from verl.trainer.ppo.ray_trainer import RayPPOTrainer

    stand_in = stand_in_batch(made)
    known = {name: tensor for name, tensor in stand_in.batch.items() if name not in ("old_log_probs", "advantages")}
    known["input_ids"] = torch.cat([made.prompts, made.responses], 1)
    known["position_ids"] = (made.attended.cumsum(1) - 1).clamp(min=0)
    batch = DataProto.from_dict(tensors=known, non_tensors=stand_in.non_tensor_batch)
    trainer: Any = object.__new__(RayPPOTrainer)
    trainer.global_steps, trainer.actor_rollout_wg = 7, Workers(made)
    trainer.config = OmegaConf.create({
        "actor_rollout_ref": {
            "actor": {"calculate_entropy": False, "entropy_coeff": 0.0, "ppo_mini_batch_size": 8, "ppo_epochs": 1,
                      "data_loader_seed": 1, "shuffle": False},
            "rollout": {"multi_turn": {"enable": False}, "temperature": 1.0, "n": SIZE},
        }
    })  # fmt: skip
    recorder = VerlRecorder(tmp_path).attach(trainer)
    old, _ = trainer._compute_old_log_prob(batch)
    batch = batch.union(old)
    batch.batch["advantages"], _ = compute_grpo_outcome_advantage(
        batch.batch["token_level_rewards"], batch.batch["response_mask"], batch.non_tensor_batch["uid"]
    )
    trainer._update_actor(batch)
    recorder.close()
    assert trainer.actor_rollout_wg.updates == 1
    holds(figures(tmp_path, "verl"), made)


class _Absent(Loader):
    """Stands in for compiled packages that OpenRLHF imports and these tests never call."""

    NAMES = ("flash_attn", "deepspeed", "vllm", "bitsandbytes", "liger_kernel", "ring_flash_attn", "aiohttp")

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in self.NAMES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = MagicMock(name=spec.name)
        module.__spec__, module.__path__, module.__name__ = spec, [], spec.name
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


@pytest.fixture
def absent_packages() -> Iterator[None]:
    before = set(sys.modules)
    finder = _Absent()
    sys.meta_path.append(finder)
    yield
    sys.meta_path.remove(finder)
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in (*_Absent.NAMES, "openrlhf"):
            del sys.modules[name]


@pytest.mark.skipif(not there("openrlhf", "ray"), reason="OpenRLHF and what it imports")
@pytest.mark.usefixtures("absent_packages")
def test_the_hook_of_openrlhfs_experience_maker(made: Made, tmp_path: Path) -> None:
    from openrlhf.trainer.ppo_utils.experience import Experience
    from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

    order = torch.randperm(len(made.rewards))

    class Maker(RemoteExperienceMaker):  # type: ignore[misc]
        """Without Ray's actors: rollouts come as they are, and the models' forward passes are done."""

        def split_rollout_samples(self, rollout_samples: Any) -> Any:
            return rollout_samples

        def make_experience(self, samples_list: Any) -> Any:
            return samples_list

    rollouts = [Experience(**_fields(made, part)) for part in order.split(16)]
    args = _arguments()
    maker = Maker(None, None, None, None, SimpleNamespace(value=0.0), SimpleNamespace(args=args), None)
    recorder = OpenRlhfRecorder(tmp_path, samples_per_prompt=SIZE, first_step=7).attach(maker)
    maker.make_experience_batch(rollouts)
    recorder.close()
    holds(figures(tmp_path, "openrlhf"), made)


def _fields(made: Made, part: torch.Tensor) -> dict[str, Any]:
    before = torch.zeros(len(part), PROMPT - 1)

    def actions(values: torch.Tensor) -> torch.Tensor:
        return torch.cat([before.to(values.dtype), values[part]], 1)

    return {
        "sequences": torch.cat([made.prompts, made.responses], 1)[part],
        "attention_mask": made.attended[part],
        "action_mask": actions(made.mask).bool(),
        "action_log_probs": actions(made.trainer),
        "rollout_log_probs": actions(made.engine),
        "kl": actions(made.trainer) * 0,
        "rewards": made.rewards[part],
        "index": part.tolist(),
        "info": {},
    }


def _arguments() -> Any:
    """The settings that the advantages are made by: group_norm, no penalty on length, no clipping of rewards."""

    class Settings(SimpleNamespace):
        def __getattr__(self, name: str) -> Any:
            return None

    advantage = Settings(estimator="group_norm", gamma=1.0, lambd=1.0)
    return Settings(
        rollout=Settings(n_samples_per_prompt=SIZE),
        algo=Settings(advantage=advantage),
        reward=Settings(clip_range=None, overlong_buffer_len=None),
    )
