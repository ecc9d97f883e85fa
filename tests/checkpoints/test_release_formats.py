"""What trainers and repositories leave where a checkpoint is expected: read, or named for what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.errors import CheckpointError

STATE = {"layers.0.q_proj.weight": torch.arange(6.0).reshape(2, 3)}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 3233904\n"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "weights.pt", "last.ckpt"])
def test_a_pointer_of_git_lfs_is_named_with_the_command_that_fetches_the_weights(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(POINTER)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(CheckpointError, match=r"Git LFS pointer.*git lfs pull"):
            open_checkpoint(path)


def test_a_shard_that_is_a_pointer_is_named(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "one.safetensors")
    (tmp_path / "two.safetensors").write_text(POINTER)
    index = '{"weight_map": {"layers.0.q_proj.weight": "one.safetensors", "norm.weight": "two.safetensors"}}'
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=r"two\.safetensors: a Git LFS pointer"):
        open_checkpoint(tmp_path)


def test_a_lightning_checkpoint_is_read_like_any_state_dict(tmp_path: Path) -> None:
    torch.save({"state_dict": STATE, "epoch": 1}, tmp_path / "last.ckpt")
    for path in (tmp_path, tmp_path / "last.ckpt"):
        (handle,) = open_checkpoint(path).tensors.values()
        assert torch.equal(handle.read(), STATE["layers.0.q_proj.weight"])


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_step_folder_of_nemo_rl_is_read_from_its_policy(tmp_path: Path) -> None:
    weights = tmp_path / "step_10" / "policy" / "weights"
    weights.mkdir(parents=True)
    dcp.save({"model": STATE}, checkpoint_id=str(weights), no_dist=True)  # type: ignore[attr-defined]
    (handle,) = open_checkpoint(f"{tmp_path}@latest").tensors.values()
    assert torch.equal(handle.read(), STATE["layers.0.q_proj.weight"])


def test_megatrons_own_format_is_not_taken_for_deepspeed(tmp_path: Path) -> None:
    rank = tmp_path / "iter_0000010" / "mp_rank_00"
    rank.mkdir(parents=True)
    torch.save({"model": STATE, "iteration": 10}, rank / "model_optim_rng.pt")
    with pytest.raises(CheckpointError, match="Megatron-Bridge") as refused:
        open_checkpoint(tmp_path / "iter_0000010")
    assert "zero_to_fp32" not in str(refused.value)
