"""An adapter merged here has the bits that peft's own merge_and_unload gives."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from ckptaudit.checkpoints import Checkpoint, merge_adapter, open_checkpoint
from ckptaudit.errors import CheckpointError

# peft and transformers warn of each other's plans; a warning of our own stays an error.
pytestmark = [
    pytest.mark.filterwarnings("ignore::Warning:peft.*"),
    pytest.mark.filterwarnings("ignore::Warning:transformers.*"),
    pytest.mark.filterwarnings("ignore::Warning:torch.nn.*"),
]

ATTENTION = ["q_proj", "v_proj"]
CONFIGS = {
    "lora": LoraConfig(r=4, lora_alpha=8, target_modules=ATTENTION),
    "every linear layer": LoraConfig(r=2, target_modules="all-linear"),
    "rslora": LoraConfig(r=4, lora_alpha=16, use_rslora=True, target_modules=ATTENTION),
    "dora": LoraConfig(r=4, use_dora=True, target_modules=ATTENTION),
    "pissa": LoraConfig(r=4, init_lora_weights="pissa", target_modules=ATTENTION),
    "gaussian start": LoraConfig(r=4, init_lora_weights="gaussian", target_modules=ATTENTION),
    "saved modules": LoraConfig(r=4, target_modules=ATTENTION, modules_to_save=["lm_head", "norm"]),
    "patterns": LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=ATTENTION,
        rank_pattern={"v_proj": 2, r"layers\.1\.self_attn\.q_proj": 3},
        alpha_pattern={"v_proj": 5, "^model.layers.0.self_attn.q_proj": 7},
    ),
    "embeddings": LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"]),
    "dora on embeddings": LoraConfig(r=4, use_dora=True, target_modules=["embed_tokens"]),
}


def trained(base: nn.Module, config: LoraConfig) -> PeftModel:
    """A model whose adapter is no longer what it was begun with."""
    model = get_peft_model(copy.deepcopy(base), copy.deepcopy(config))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "magnitude" not in name:
            parameter.data.add_(0.05 * torch.randn_like(parameter))
        elif parameter.requires_grad:
            parameter.data.mul_(1.01)
    return model


def merged_by_peft(base: nn.Module, adapter: Path) -> dict[str, Tensor]:
    """What is deployed: the saved adapter loaded over the base, merged by peft itself."""
    return PeftModel.from_pretrained(copy.deepcopy(base), adapter).merge_and_unload().state_dict()


def assert_same(merged: Checkpoint, expected: dict[str, Tensor]) -> None:
    assert set(merged.tensors) == set(expected)
    for name, handle in merged.tensors.items():
        assert handle.dtype == str(expected[name].dtype).removeprefix("torch."), name
        assert torch.equal(handle.read(), expected[name]), name


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("kind", CONFIGS)
def test_merged_weights_equal_pefts_own(kind, dtype, llama, tmp_path):
    base = copy.deepcopy(llama).to(dtype)
    trained(base, CONFIGS[kind]).save_pretrained(tmp_path / "adapter")
    whole = open_checkpoint(saved(base, tmp_path / "base"))
    merged = merge_adapter(whole, open_checkpoint(tmp_path / "adapter"))
    expected = merged_by_peft(base, tmp_path / "adapter")
    assert_same(merged, expected)
    assert any(not torch.equal(h.read(), whole.tensors[n].read()) for n, h in merged.tensors.items())


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_transposed_layers_merge_as_in_peft(kind, tmp_path):
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=1, n_head=2))
    config = LoraConfig(r=4, use_dora=kind == "dora", target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    trained(base, config).save_pretrained(tmp_path / "adapter")
    merged = merge_adapter(open_checkpoint(saved(base, tmp_path / "base")), open_checkpoint(tmp_path / "adapter"))
    expected = merged_by_peft(base, tmp_path / "adapter")
    assert_same(merged, {name: tensor for name, tensor in expected.items() if name != "lm_head.weight"})


def test_learned_biases_are_merged(tmp_path):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 4))
    config = LoraConfig(r=2, lora_bias=True, target_modules=["0", "1"])
    trained(base, config).save_pretrained(tmp_path / "adapter")
    save_file(base.state_dict(), tmp_path / "base.safetensors")
    merged = merge_adapter(open_checkpoint(tmp_path / "base.safetensors"), open_checkpoint(tmp_path / "adapter"))
    assert_same(merged, merged_by_peft(base, tmp_path / "adapter"))


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_convolutions_are_merged(kernel, dora, tmp_path):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Conv2d(3, 6, kernel), nn.Flatten())
    trained(base, LoraConfig(r=2, use_dora=dora, target_modules=["0"])).save_pretrained(tmp_path / "adapter")
    save_file(base.state_dict(), tmp_path / "base.safetensors")
    merged = merge_adapter(open_checkpoint(tmp_path / "base.safetensors"), open_checkpoint(tmp_path / "adapter"))
    expected = merged_by_peft(base, tmp_path / "adapter")
    # peft runs a convolution where a matrix product is enough; the two round in their own order.
    torch.testing.assert_close(merged.tensors["0.weight"].read(), expected["0.weight"], rtol=1e-5, atol=1e-6)


def test_a_pissa_adapter_converted_to_lora_merges_over_the_original(llama, tmp_path):
    base = copy.deepcopy(llama).float()
    model: Any = get_peft_model(copy.deepcopy(base), copy.deepcopy(CONFIGS["pissa"]))
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "start")
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.add_(0.01)
    model.peft_config["default"].init_lora_weights = "pissa"
    model.save_pretrained(tmp_path / "adapter", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    merged = merge_adapter(open_checkpoint(saved(base, tmp_path / "base")), open_checkpoint(tmp_path / "adapter"))
    assert_same(merged, merged_by_peft(base, tmp_path / "adapter"))


def test_a_pissa_adapter_merges_over_its_residual_base(llama, tmp_path):
    model: Any = get_peft_model(copy.deepcopy(llama), copy.deepcopy(CONFIGS["pissa"]))
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "adapter")
    residual = model.unload()
    residual.save_pretrained(tmp_path / "residual")
    merged = open_checkpoint(f"{tmp_path}/residual+{tmp_path}/adapter")
    assert merged.adapter is None
    assert_same(merged, merged_by_peft(residual, tmp_path / "adapter"))


def test_an_adapter_saved_as_torch_pickle_reads_the_same(llama, tmp_path):
    trained(llama, CONFIGS["lora"]).save_pretrained(tmp_path / "adapter")
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    torch.save(tensors, tmp_path / "adapter" / "adapter_model.bin")
    base = open_checkpoint(saved(llama, tmp_path / "base"))
    merged = merge_adapter(base, open_checkpoint(tmp_path / "adapter"))
    assert_same(merged, merged_by_peft(llama, tmp_path / "adapter"))


def test_opening_an_adapter_gives_its_factors_and_merging_reads_nothing(monkeypatch, llama, tmp_path):
    from ckptaudit.checkpoints import storage

    base = open_checkpoint(saved(llama, tmp_path / "base"))
    trained(llama, CONFIGS["lora"]).save_pretrained(tmp_path / "adapter")
    monkeypatch.setattr(storage, "read_bytes", lambda *_: pytest.fail("a tensor was read"))
    adapter = open_checkpoint(tmp_path / "adapter")
    assert adapter.adapter is not None
    assert adapter.format == "adapter"
    assert len(adapter.tensors) == 8
    assert merge_adapter(base, adapter).path == str(tmp_path / "adapter")


def test_a_merged_weight_carries_its_low_rank_update(llama, tmp_path):
    base = copy.deepcopy(llama).float()
    trained(base, CONFIGS["rslora"]).save_pretrained(tmp_path / "adapter")
    whole = open_checkpoint(saved(base, tmp_path / "base"))
    merged = merge_adapter(whole, open_checkpoint(tmp_path / "adapter"))
    name = "model.layers.0.self_attn.q_proj.weight"
    update = merged.tensors[name].low_rank
    assert update is not None
    assert update.rank == 4
    difference = merged.tensors[name].read() - whole.tensors[name].read()
    product = update.scale * update.up.read() @ update.down.read()
    torch.testing.assert_close(difference, product, rtol=0, atol=1e-6)
    assert merged.tensors["lm_head.weight"].low_rank is None


def test_reading_twice_does_not_merge_twice(llama, tmp_path):
    trained(llama, CONFIGS["lora"]).save_pretrained(tmp_path / "adapter")
    base = open_checkpoint(saved(llama, tmp_path / "base"))
    name = "model.layers.0.self_attn.q_proj.weight"
    held = base.tensors[name].with_tensor(base.tensors[name].read())
    shared = Checkpoint(base.path, base.format, {**base.tensors, name: held}, base.config)
    handle = merge_adapter(shared, open_checkpoint(tmp_path / "adapter")).tensors[name]
    assert torch.equal(handle.read(), handle.read())


def test_full_weights_pass_through_unchanged(plain):
    assert merge_adapter(plain, plain) is plain


def test_an_adapter_cannot_be_the_base(plain, llama, tmp_path):
    trained(llama, CONFIGS["lora"]).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"cannot be the base; .* WEIGHTS\+ADAPTER"):
        merge_adapter(open_checkpoint(tmp_path), plain)


def test_a_base_without_the_adapted_module_is_refused(plain, llama, tmp_path):
    base = copy.deepcopy(llama)
    trained(base, CONFIGS["lora"]).save_pretrained(tmp_path / "adapter")
    other = {n: h for n, h in plain.tensors.items() if "q_proj" not in n}
    with pytest.raises(CheckpointError, match=r"changes .*q_proj, which the base does not hold"):
        merge_adapter(Checkpoint("other", "safetensors", other), open_checkpoint(tmp_path / "adapter"))


def test_a_base_of_another_size_is_refused(llama, tmp_path):
    trained(llama, CONFIGS["lora"]).save_pretrained(tmp_path / "adapter")
    small = {f"model.layers.{i}.self_attn.{p}_proj.weight": torch.ones(8, 8) for i in range(2) for p in "qv"}
    save_file(small, tmp_path / "small.safetensors")
    with pytest.raises(CheckpointError, match=r"shape \[32, 32\], the base \[8, 8\]"):
        merge_adapter(open_checkpoint(tmp_path / "small.safetensors"), open_checkpoint(tmp_path / "adapter"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "IA3"}, "an adapter of type IA3, which is not read"),
        ({"init_lora_weights": "olora"}, "convert it to plain LoRA"),
        ({"target_parameters": ["experts"]}, "a LoRA adapter with target_parameters"),
        ({"layer_replication": [[0, 1]]}, "a LoRA adapter with layer_replication"),
        ({"rank_pattern": {"(a+)+$": 4}}, "more than is read"),
        ({"rank_pattern": {"[": 4}}, "more than is read"),
        ({"rank_pattern": {"+": 4}}, "more than is read"),
        ({"r": 8}, "has rank 4 where the configuration says 8"),
        ({"r": "four"}, "not a LoRA configuration"),
        ({"use_dora": True}, "use_dora and the tensors"),
        ({"lora_alpha": "1e999"}, "not a LoRA configuration"),
    ],
    ids=str,
)
def test_what_cannot_be_merged_faithfully_is_refused(change, words, llama, tmp_path):
    trained(llama, CONFIGS["lora"]).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(tmp_path)


def test_an_adapter_without_weights_says_so(llama, tmp_path):
    trained(llama, CONFIGS["lora"]).save_pretrained(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"without adapter_model\.safetensors"):
        open_checkpoint(tmp_path)
