"""Sharded saves of an FSDP2 model read like the whole model, with no process group."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.errors import CheckpointError


@pytest.mark.parametrize(
    "place", ["dcp", "flat", "flat/pytorch_model_fsdp_0", "verl@latest", "verl/global_step_5", "hybrid"]
)
def test_two_ranks_saves_read_like_the_whole(place, distributed, assert_equal):
    checkpoint = open_checkpoint(f"{distributed}/{place}")
    assert_equal(checkpoint, load_file(distributed / "whole.safetensors"))
    assert not torch.distributed.is_initialized()


def test_optimizer_state_and_counters_are_left_out(distributed):
    names = list(open_checkpoint(distributed / "dcp").tensors)
    assert names == ["0.bias", "0.weight", "1.bias", "1.weight", "2.weight"]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"model": w}, lambda w: {"app": {"model": w}}])
def test_one_process_saves_read_like_the_plain_file(wrap, weights, assert_equal, tmp_path):
    stored = {name: tensor for name, tensor in weights.items() if tensor.dim()}
    save_distributed(wrap(dict(stored)), checkpoint_id=tmp_path, no_dist=True)
    assert_equal(open_checkpoint(tmp_path), stored)


def test_verls_configuration_is_found_where_verl_puts_it(distributed):
    folder = distributed / "verl" / "global_step_5" / "actor" / "huggingface"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "llama", "tie_word_embeddings": true}')
    assert open_checkpoint(distributed / "verl" / "global_step_5").ties_embeddings


def test_a_missing_rank_is_named(distributed, tmp_path):
    file = "model_world_size_2_rank_1.pt"
    (tmp_path / file).symlink_to(distributed / "hybrid" / file)
    with pytest.raises(CheckpointError, match="rank 0 of 2 is missing"):
        open_checkpoint(tmp_path)


def test_one_ranks_file_alone_is_refused_with_the_way_out(distributed):
    with pytest.raises(CheckpointError, match=r"pass the folder with the model_world_size_N_rank_R.pt files"):
        open_checkpoint(distributed / "hybrid" / "model_world_size_2_rank_0.pt")


def test_a_missing_payload_is_named(distributed, tmp_path):
    (tmp_path / ".metadata").write_bytes((distributed / "dcp" / ".metadata").read_bytes())
    with pytest.raises(CheckpointError, match=r"__\d_0.distcp is missing"):
        open_checkpoint(tmp_path)
