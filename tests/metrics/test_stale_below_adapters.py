"""What an adapter leaves to the base's own files is as it should be; what it holds and does not change is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from ckptaudit.checkpoints import merge_adapter, open_checkpoint
from ckptaudit.metrics.moved import parts_at_base, stale_layers
from ckptaudit.pairing import pair_checkpoints
from tests.stale_pairs import evidence_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::Warning:peft.*"),
    pytest.mark.filterwarnings("ignore::Warning:transformers.*"),
]

ALL = ["q_proj", "o_proj", "up_proj", "down_proj"]
TARGETS: dict[str, dict[str, Any]] = {
    "one matrix left out": {"target_modules": ALL, "exclude_modules": ["layers.2.self_attn.q_proj"]},
    "other targets by layer": {"target_modules": r".*(layers\.[0123]\.self_attn\.q|layers\.[03]\.mlp\.up)_proj"},
    "one layer left out, head in full": {
        "target_modules": ALL,
        "layers_to_transform": [0, 1, 3],
        "modules_to_save": ["lm_head"],
    },
}


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    """Save a base, and an adapter trained on it, in two folders."""

    def save(shard: str, **settings: Any) -> tuple[Path, Path]:
        torch.manual_seed(0)
        model: Any = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=64,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=4,
                num_attention_heads=4,
                num_key_value_heads=2,
                tie_word_embeddings=False,
            )
        )
        model.save_pretrained(tmp_path / "base", max_shard_size=shard)
        tuned: Any = get_peft_model(model, LoraConfig(r=4, **settings))
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.data.add_(0.05 * torch.randn_like(parameter))
        tuned.save_pretrained(tmp_path / "adapter")
        return tmp_path / "base", tmp_path / "adapter"

    return save


def found(base: Path, adapter: Path) -> dict[str, list[str]]:
    whole = open_checkpoint(base)
    evidence = evidence_of(pair_checkpoints(whole, merge_adapter(whole, open_checkpoint(adapter))))
    return {f.__name__: [str(x) for x in f(evidence)] for f in (stale_layers, parts_at_base)}


@pytest.mark.parametrize("shard", ["1GB", "40KB"], ids=["one file", "shards"])
@pytest.mark.parametrize("targets", TARGETS)
def test_what_an_adapter_leaves_to_the_base_is_not_stale(targets, shard, saved):
    base, adapter = saved(shard, **TARGETS[targets])
    assert found(base, adapter)["stale_layers"] == []


def test_a_layer_that_an_adapter_leaves_to_the_base_is_still_told(saved):
    base, adapter = saved("1GB", **TARGETS["one layer left out, head in full"])
    assert [text.split(":")[0] for text in found(base, adapter)["parts_at_base"]] == ["layers.2"]


def test_a_layer_whose_factors_are_zero_is_stale(saved):
    base, adapter = saved("1GB", target_modules=ALL, modules_to_save=["lm_head"])
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({n: 0 * t if ".layers.2." in n else t for n, t in tensors.items()}, file)
    assert [text.split(":")[0] for text in found(base, adapter)["stale_layers"]] == ["layers.2"]
