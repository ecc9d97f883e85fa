"""Settings that the model contradicts, and tensors saved under several names: read as peft loads them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from ckptaudit.checkpoints import merge_adapter, open_checkpoint
from tests.checkpoints.test_adapter_targets import changed
from tests.checkpoints.test_adapters import assert_same, merged_by_peft, saved, trained

pytestmark = [
    pytest.mark.filterwarnings("ignore::Warning:peft.*"),
    pytest.mark.filterwarnings("ignore::Warning:transformers.*"),
]


@pytest.mark.parametrize("targets", [["q_proj"], ["q_proj", "up_proj"]], ids=str)
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_linear_layers_are_not_turned_whatever_the_configuration_says(dora, targets, llama, tmp_path):
    config = LoraConfig(r=4, use_dora=dora, target_modules=targets)
    adapter = saved(trained(llama, config), tmp_path / "adapter")
    changed(adapter, fan_in_fan_out=True)
    merged = merge_adapter(open_checkpoint(saved(llama, tmp_path / "base")), open_checkpoint(adapter))
    assert_same(merged, merged_by_peft(llama, adapter))


def test_linear_layers_of_an_unknown_model_are_not_turned_where_another_shape_tells(tmp_path):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    adapter = saved(trained(base, LoraConfig(r=2, target_modules=["0", "1"])), tmp_path / "adapter")
    changed(adapter, fan_in_fan_out=True)
    save_file(base.state_dict(), tmp_path / "base.safetensors")
    merged = merge_adapter(open_checkpoint(tmp_path / "base.safetensors"), open_checkpoint(adapter))
    assert_same(merged, merged_by_peft(base, adapter))


def test_convolutions_of_gpt2_are_turned_whatever_the_configuration_says(tmp_path):
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=1, n_head=2))
    adapter = saved(trained(base, LoraConfig(r=4, target_modules=["c_proj"], fan_in_fan_out=True)), tmp_path / "a")
    changed(adapter, fan_in_fan_out=False)
    merged = merge_adapter(open_checkpoint(saved(base, tmp_path / "base")), open_checkpoint(adapter))
    expected = merged_by_peft(base, adapter)
    assert_same(merged, {name: tensor for name, tensor in expected.items() if name != "lm_head.weight"})


@pytest.mark.parametrize("copied", ["", "modules_to_save.", "original_module."])
def test_resized_embeddings_among_the_saved_modules_are_read_as_peft_loads_them(copied, llama, tmp_path):
    """Which of the copies peft takes is told by changing one of them."""
    base = saved(llama, tmp_path / "base")
    larger: Any = copy.deepcopy(llama)
    larger.resize_token_embeddings(72)
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"])
    adapter = tmp_path / "adapter"
    trained(larger, config).save_pretrained(adapter, save_embedding_layers=True)
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    name = f"base_model.model.lm_head.{copied}weight"
    save_file({**tensors, name: tensors[name] + 1}, file)
    merged = merge_adapter(open_checkpoint(base), open_checkpoint(adapter))
    model = PeftModel.from_pretrained(copy.deepcopy(larger), adapter)
    assert_same(merged, model.merge_and_unload().state_dict())
