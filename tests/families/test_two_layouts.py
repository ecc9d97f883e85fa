"""One model saved in two ways: by save_pretrained on one side, straight from memory or wrapped on the other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ckptaudit.checkpoints import Checkpoint, open_checkpoint
from ckptaudit.pairing import ModelPair, pair_checkpoints

Save = Callable[[str], Path]
Build = Callable[[str], Any]


def from_memory(network: Any, folder: Path, prefix: str = "", **config: object) -> Checkpoint:
    """The parameters under the names they have in memory, as FSDP and torch.distributed save them."""
    tensors = {f"{prefix}{name}": tensor.detach().clone() for name, tensor in network.state_dict().items()}
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    said = network.config.to_dict() | config
    (folder / "config.json").write_text(json.dumps({k: v for k, v in said.items() if v is not None}, default=str))
    return open_checkpoint(folder)


def nothing_moved(pair: ModelPair) -> bool:
    return all(torch.equal(t.base.read(), t.tuned.read()) for t in pair.aligned)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "qwen2_moe"])
@pytest.mark.parametrize("swapped", [False, True])
def test_experts_apart_on_one_side_and_stacked_on_the_other(
    family: str, swapped: bool, saved: Save, model: Build, tmp_path: Path
) -> None:
    apart, stacked = open_checkpoint(saved(family)), from_memory(model(family), tmp_path / "memory")
    assert len(apart.tensors) != len(stacked.tensors)
    pair = pair_checkpoints(stacked, apart) if swapped else pair_checkpoints(apart, stacked)
    assert pair.unaligned == ()
    assert nothing_moved(pair)
    assert sum(t.base.parameters for t in pair.aligned) == apart.parameters
    assert len(pair.select(["down_proj"])["layers.0"]) == 4 + (family == "qwen2_moe")
    assert "another layout" in pair.notes[-1]


def test_experts_of_another_layout_are_told_apart(saved: Save, model: Build, tmp_path: Path) -> None:
    stacked = from_memory(model("mixtral"), tmp_path / "memory")
    name = "model.layers.1.mlp.experts.gate_up_proj"
    changed = stacked.tensors[name].read().clone()
    changed[2, 48:] += 1
    tensors = {**stacked.tensors, name: stacked.tensors[name].with_tensor(changed)}
    tuned = Checkpoint(stacked.path, stacked.format, tensors, stacked.config)
    pair = pair_checkpoints(open_checkpoint(saved("mixtral")), tuned)
    (moved,) = (t for t in pair.aligned if not torch.equal(t.base.read(), t.tuned.read()))
    assert moved.name == "model.layers.1.block_sparse_moe.experts.2.w3.weight"


@pytest.mark.parametrize("family", ["gpt2", "bert", "t5", "gemma2", "falcon_7b", "bloom", "starcoder", "roberta"])
@pytest.mark.parametrize("said", [{}, {"tie_word_embeddings": None}])
def test_what_save_pretrained_leaves_out_because_it_is_shared(
    family: str, said: dict[str, Any], saved: Save, model: Build, tmp_path: Path
) -> None:
    full = from_memory(model(family), tmp_path / "memory", **said)
    base = open_checkpoint(saved(family))
    short = Checkpoint(
        base.path, base.format, base.tensors, {k: v for k, v in base.config.items() if k not in said}
    )
    assert len(full.tensors) > len(short.tensors)
    for pair in (pair_checkpoints(short, full), pair_checkpoints(full, short)):
        assert pair.unaligned == ()
        assert nothing_moved(pair)


def test_a_head_left_out_of_an_untied_model_is_missed(saved: Save) -> None:
    base = open_checkpoint(saved("llama"))
    tensors = {k: v for k, v in base.tensors.items() if k != "lm_head.weight"}
    pair = pair_checkpoints(base, Checkpoint(base.path, base.format, tensors, base.config))
    assert [str(u) for u in pair.unaligned] == ["lm_head.weight: only in base"]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model.", "actor.module._orig_mod."])
def test_wrapped_by_a_trainer(prefix: str, saved: Save, model: Build, tmp_path: Path) -> None:
    tuned = from_memory(model("phi3"), tmp_path / "wrapped", prefix)
    pair = pair_checkpoints(open_checkpoint(saved("phi3")), tuned)
    assert pair.unaligned == ()
    assert nothing_moved(pair)
    assert not any(t.name.startswith(prefix) for t in pair.aligned)
    assert "under another prefix" in pair.notes[0]


def test_a_vision_language_model_by_its_names_in_memory(saved: Save, model: Build, tmp_path: Path) -> None:
    on_disk = open_checkpoint(saved("qwen2_vl"))
    in_memory = from_memory(model("qwen2_vl"), tmp_path / "memory")
    assert "model.language_model.embed_tokens.weight" in in_memory.tensors
    assert "model.embed_tokens.weight" in on_disk.tensors
    pair = pair_checkpoints(on_disk, in_memory)
    assert pair.unaligned == ()
    assert nothing_moved(pair)


def test_a_model_without_its_head_against_the_whole(saved: Save, model: Build, tmp_path: Path) -> None:
    model("bert").bert.save_pretrained(tmp_path / "body")
    pair = pair_checkpoints(open_checkpoint(saved("bert")), open_checkpoint(tmp_path / "body"))
    assert {u.tensor.split(".")[0] for u in pair.unaligned} == {"cls"}
    assert pair.layers == ("encoder.layers.0", "encoder.layers.1")
    assert nothing_moved(pair)


def test_experts_stored_either_way_round_are_told_by_their_width(saved: Save, tmp_path: Path) -> None:
    """Qwen3-VL-MoE is stored [in, out] by save_pretrained and [out, in] from memory."""
    memory = {
        "model.language_model.layers.0.mlp.experts.gate_up_proj": torch.randn(4, 48, 32),
        "model.language_model.layers.0.mlp.experts.down_proj": torch.randn(4, 32, 24),
    }
    config: dict[str, object] = {"model_type": "qwen3_vl_moe", "text_config": {"hidden_size": 32}}
    sides = [
        _side(tmp_path / n, t, config) for n, t in (("a", memory), ("b", {k: v.mT for k, v in memory.items()}))
    ]
    pair = pair_checkpoints(*sides)
    assert {t.place.role: t.matrix_shape for t in pair.aligned} == {
        "gate_proj": (4, 24, 32),
        "up_proj": (4, 24, 32),
        "down_proj": (4, 32, 24),
    }
    assert pair.unaligned == ()
    assert nothing_moved(pair)


def _side(folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, object]) -> Checkpoint:
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return open_checkpoint(folder)
