"""A merge with an adapter that brings embeddings of more tokens than the base has."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from ckptaudit import audit

pytestmark = [
    pytest.mark.filterwarnings("ignore::Warning:peft.*"),
    pytest.mark.filterwarnings("ignore::Warning:transformers.*"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A base of 64 tokens, an adapter on 72 of them, and what peft merges of it."""
    folder = tmp_path_factory.mktemp("resized")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=False,
    )
    base: Any = LlamaForCausalLM(config)
    base.to(torch.bfloat16)
    base.save_pretrained(folder / "base")
    larger = copy.deepcopy(base)
    larger.resize_token_embeddings(72)
    tuned: Any = get_peft_model(larger, LoraConfig(r=4, target_modules=["q_proj", "up_proj"]))
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    tuned.save_pretrained(folder / "adapter", save_embedding_layers=True)
    tuned.merge_and_unload().save_pretrained(folder / "merged")
    return folder / "base", folder / "adapter", folder / "merged"


def passes(folders: tuple[Path, Path, Path], how: str) -> bool:
    base, adapter, merged = map(str, folders)
    if how == "adapter":
        return audit(base=base, tuned=merged, profile="merged", inputs={"adapter": adapter}).passed
    return audit(base=f"{base}+{adapter}", tuned=merged, profile="merged").passed


@pytest.mark.parametrize("how", ["adapter", "base"])
def test_resized_embeddings_are_accepted_however_the_adapter_is_given(how, folders):
    assert passes(folders, how)


@pytest.mark.parametrize("how", ["adapter", "base"])
@pytest.mark.parametrize("row", [3, 70])
def test_other_rows_of_them_close_the_gate(how, row, folders, tmp_path):
    base, adapter, merged = folders
    tensors = load_file(merged / "model.safetensors")
    tensors["model.embed_tokens.weight"][row] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((merged / "config.json").read_text())
    assert not passes((base, adapter, tmp_path), how)
