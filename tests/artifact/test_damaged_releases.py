"""Each kind of damage to a release is found by its quantity, with file, key, both values and the mend."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ckptaudit.errors import CheckpointError
from ckptaudit.findings import Finding
from tests.artifact.releases import LAYERS, Pair, evidence_of, findings_of, only, weights
from tests.conftest import package


def says(finding: Finding, *words: str) -> bool:
    return all(word in f"{finding.tensor} {finding.fault} {finding.detail}" for word in words)


# Ties.


def test_a_tie_by_the_flag_against_another_stored_head(pair: Pair) -> None:
    pair.tuned.config["tie_word_embeddings"] = True
    (finding,) = only(pair.findings(), "tie_faults")
    assert finding.tensor == "config.json:tie_word_embeddings"
    assert says(finding, "is true", "is false", "lm_head.weight is stored and differs from", "write false")


def test_a_head_left_out_of_an_untied_model(pair: Pair) -> None:
    pair.tuned.config["tie_word_embeddings"] = True
    del pair.tuned.state["lm_head.weight"]
    (finding,) = only(pair.findings(), "tie_faults")
    assert says(finding, "while the base is not", "no head is stored", "save lm_head.weight")


def test_a_tied_head_that_was_saved_apart(pair: Pair) -> None:
    pair.base.config["tie_word_embeddings"] = pair.tuned.config["tie_word_embeddings"] = True
    del pair.base.state["lm_head.weight"]
    (finding,) = only(pair.findings(), "tie_faults")
    assert says(finding, "another head is stored")


@pytest.mark.parametrize("flag", [False, None])
def test_neither_head_nor_tie(pair: Pair, flag: bool | None) -> None:
    """Without a flag the class's default counts, which for this model type is false."""
    pair.tuned.config["tie_word_embeddings"] = flag
    if flag is None:
        del pair.tuned.config["tie_word_embeddings"]
    del pair.tuned.state["lm_head.weight"]
    (finding,) = only(pair.findings(), "tie_faults")
    assert says(finding, "no head is stored, and none is tied", "random head")


def test_a_tie_of_the_base_that_is_broken(pair: Pair) -> None:
    pair.base.config["tie_word_embeddings"] = True
    del pair.base.state["lm_head.weight"]
    (finding,) = only(pair.findings(), "tie_faults")
    assert says(finding, "lm_head.weight", "the base's tie is broken")


def test_a_head_overwritten_by_the_embeddings(pair: Pair) -> None:
    pair.tuned.state["lm_head.weight"] = pair.tuned.state["model.embed_tokens.weight"].clone()
    (finding,) = only(pair.findings(), "tie_faults")
    assert says(finding, "copy of the embeddings")


# Configuration against shapes.


@pytest.mark.parametrize(
    ("key", "value", "stored"),
    [
        ("num_hidden_layers", 2, "3"),
        ("hidden_size", 20, "16"),
        ("intermediate_size", 44, "40"),
        ("num_attention_heads", 8, "16"),
        ("num_key_value_heads", 4, "8"),
    ],
)
def test_a_size_that_the_tensors_do_not_have(pair: Pair, key: str, value: int, stored: str) -> None:
    pair.tuned.config[key] = value
    pair.tuned.config["head_dim"] = pair.base.config["head_dim"] = 4
    found = pair.findings()
    assert set(found) == {"config_shape_faults", "config_changes"}
    match = [f for f in found["config_shape_faults"] if f.tensor.startswith(f"config.json:{key}")]
    assert match
    assert says(match[0], stored)
    assert any(f.tensor == f"config.json:{key}" and says(f, str(value)) for f in found["config_changes"])


def test_a_layer_that_is_missing_in_the_file(pair: Pair) -> None:
    pair.tuned.state = {k: v for k, v in pair.tuned.state.items() if ".layers.1." not in k}
    found = pair.findings()["config_shape_faults"]
    assert says(found[0], "config.json:num_hidden_layers", "declares 3", "holds 2")


def test_fewer_experts_than_declared(pair: Pair) -> None:
    for side, count in ((pair.base, 4), (pair.tuned, 3)):
        side.config |= {"num_experts": 4, "model_type": "qwen3_moe"}
        for i in range(LAYERS):
            for e in range(count):
                side.state[f"model.layers.{i}.mlp.experts.{e}.up_proj.weight"] = torch.ones(8, 16).bfloat16()
    (finding,) = only(pair.findings(), "config_shape_faults")
    assert says(finding, "config.json:num_experts", "declares 4", "holds 3")


def test_sizes_inside_a_text_config(pair: Pair) -> None:
    for side in (pair.base, pair.tuned):
        side.config = {"model_type": "qwen2_5_vl", "tie_word_embeddings": False, "text_config": side.config}
    pair.tuned.config["text_config"] = {**pair.tuned.config["text_config"], "num_hidden_layers": 5}
    assert set(pair.findings()) == {"config_shape_faults", "config_changes"}


# Configuration against the base's.


@pytest.mark.parametrize(
    ("key", "value", "at"),
    [
        ("model_type", "llama", "model_type"),
        ("architectures", ["LlamaForCausalLM"], "architectures"),
        ("rms_norm_eps", 1e-5, "rms_norm_eps"),
        ("hidden_act", "gelu", "hidden_act"),
        ("sliding_window", 8, None),
        ("use_sliding_window", True, "use_sliding_window"),
        ("layer_types", ["sliding_attention"] * LAYERS, "layer_types"),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 1e6}, "rope_parameters.theta"),
        ("rope_parameters", {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}, "rope_parameters.type"),
        ("attention_bias", True, "attention_bias"),
        ("final_logit_softcapping", 30.0, "final_logit_softcapping"),
        ("auto_map", {"AutoModel": "evil.py"}, "auto_map.AutoModel"),
    ],
)
@pytest.mark.parametrize("release", ["5.24.0", "4.40.0"])
def test_a_key_that_decides_what_the_weights_compute(
    pair: Pair, key: str, value: object, at: str | None, release: str
) -> None:
    pair.tuned.config[key] = value
    pair.base.config["transformers_version"] = release
    if at is None:  # a window that nothing uses means nothing
        assert pair.findings() == {}
        return
    found = only(pair.findings(), "config_changes")
    assert f"config.json:{at}" in [f.tensor for f in found]
    assert all(says(f, "the base says", "the tuned model", "copy the base's value") for f in found)


def test_a_lost_position_embedding(pair: Pair) -> None:
    pair.base.config["rope_parameters"]["rope_theta"] = 1e6
    del pair.tuned.config["rope_parameters"]
    pair.tuned.config["transformers_version"] = "4.40.0"
    (finding,) = only(pair.findings(), "config_changes")
    assert says(finding, "config.json:rope_parameters.theta", "1000000.0", "the tuned model nothing")


def test_a_key_inside_a_nested_part(pair: Pair) -> None:
    for side, size in ((pair.base, 14), (pair.tuned, 16)):
        side.config["vision_config"] = {"patch_size": size, "model_type": "siglip"}
    (finding,) = only(pair.findings(), "config_changes")
    assert finding.tensor == "config.json:vision_config.patch_size"


# Vocabulary.


def test_a_larger_vocabulary_than_rows(pair: Pair) -> None:
    pair.tuned.config["vocab_size"] = 32
    (finding,) = only(pair.findings(), "vocabulary_faults")
    assert says(finding, "config.json:vocab_size", "32", "24 rows", "resize")


def test_a_vocabulary_size_that_was_lost(pair: Pair) -> None:
    del pair.tuned.config["vocab_size"]
    (finding,) = only(pair.findings(), "vocabulary_faults")
    assert says(finding, "config.json:vocab_size", "the base declares 24", "write 24")


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gpt_oss", "deepseek_v3", "gemma2"])
def test_transformers_writes_the_vocabulary_size_at_its_default_too(kind: str, tmp_path: Path) -> None:
    from transformers import CONFIG_MAPPING

    CONFIG_MAPPING[kind]().save_pretrained(tmp_path)
    assert "vocab_size" in json.loads((tmp_path / "config.json").read_text())


@pytest.mark.parametrize("lost", ["rope_type", "factor", "beta_fast"])
def test_a_part_of_a_position_embedding_is_no_default_of_the_class(pair: Pair, lost: str) -> None:
    yarn = {
        "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
        "original_max_position_embeddings": 4096, "rope_theta": 150000.0,
    }  # fmt: skip
    for side in (pair.base, pair.tuned):
        side.config |= {"model_type": "gpt_oss", "rope_parameters": dict(yarn)}
    del pair.tuned.config["rope_parameters"][lost]
    found = pair.findings()["config_changes"]
    assert [f.tensor for f in found] == [f"config.json:rope_parameters.{lost.removeprefix('rope_')}"]


def test_a_position_embedding_that_is_wholly_the_class_s_may_be_left_out(pair: Pair) -> None:
    for side in (pair.base, pair.tuned):
        side.config["model_type"] = "gpt_oss"
    pair.base.config["rope_parameters"] = {
        "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "original_max_position_embeddings": 4096, "rope_theta": 150000.0,
    }  # fmt: skip
    del pair.tuned.config["rope_parameters"]
    assert "config_changes" not in pair.findings()


def test_a_head_that_was_cut(pair: Pair) -> None:
    pair.tuned.state["lm_head.weight"] = pair.tuned.state["lm_head.weight"][:21].clone()
    found = only(pair.findings(), "vocabulary_faults")
    assert [f.fault for f in found] == ["head and embeddings of different length", "vocabulary cut"]
    assert says(found[0], "21 rows", "24")
    assert says(found[1], "3 tokens are lost")


def test_a_vocabulary_cut_below_the_tokenizer(pair: Pair) -> None:
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        pair.tuned.state[name] = pair.tuned.state[name][:1].clone()
    faults = {f.fault for f in only(pair.findings(), "vocabulary_faults")}
    assert faults == {
        "vocabulary size", "tokens beyond the rows", "special token beyond the rows", "vocabulary cut",
    }  # fmt: skip


def test_a_new_token_without_a_row(pair: Pair) -> None:
    pair.tuned.tokenizer["added_tokens"].append({"id": 24, "content": "<tool>", "special": True})
    (finding,) = only(pair.findings(), "vocabulary_faults")
    assert says(finding, "tokenizer.json:vocab", '"<tool>" at 24', "24 rows")


# Types.


def test_a_declared_type_that_is_not_stored(pair: Pair) -> None:
    pair.tuned.config["dtype"] = "float32"
    (finding,) = only(pair.findings(), "dtype_faults")
    assert says(finding, "config.json:dtype", "float32", "bfloat16")


def test_quantisation_that_is_declared_and_not_stored(pair: Pair) -> None:
    """As merging an adapter that was trained on four bits may leave it."""
    pair.tuned.config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (finding,) = only(pair.findings(), "dtype_faults")
    assert says(finding, "config.json:quantization_config", '"bitsandbytes"', "remove the key")


def test_quantisation_that_the_base_declares_too_is_its_own(pair: Pair) -> None:
    for side in (pair.base, pair.tuned):
        side.config["quantization_config"] = {"quant_method": "fp8"}
    assert pair.findings() == {}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_an_export_in_another_type(pair: Pair, dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    pair.tuned.state = weights(1, dtype)
    pair.tuned.config["dtype"] = name
    (finding,) = only(pair.findings(), "export_dtypes")
    assert finding.fault == f"{name} export of a bfloat16 base"


def test_an_export_to_float8_is_named(pair: Pair) -> None:
    for name in [n for n in pair.tuned.state if "_proj" in n]:
        weight = pair.tuned.state[name].float()
        scale = weight.abs().amax(1, keepdim=True) / 448
        pair.tuned.state[name] = (weight / scale).to(torch.float8_e4m3fn)
        pair.tuned.state[f"{name}_scale"] = scale.bfloat16()
    pair.tuned.config["quantization_config"] = {"quant_method": "compressed-tensors"}
    (finding,) = only(pair.findings(), "export_dtypes")
    assert says(finding, "float8_e4m3fn export", '"compressed-tensors"', "15 weights", "before quantisation")


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "lm_head.weight", "model.norm.weight"])
def test_one_tensor_of_another_type(pair: Pair, name: str) -> None:
    pair.tuned.state[name] = pair.tuned.state[name].float()
    (finding,) = only(pair.findings(), "stray_dtypes")
    assert finding.tensor == name
    assert says(finding, "float32", "bfloat16")


# The folder.


def sharded(pair: Pair, folder: Path, state: dict[str, torch.Tensor]) -> dict[str, str]:
    save_file(state, folder / "model-00001-of-00001.safetensors")
    return dict.fromkeys(state, "model-00001-of-00001.safetensors")


def test_a_stale_file_beside_an_index(pair: Pair) -> None:
    folder = pair.tuned.write()
    pair.tuned.put("model.safetensors.index.json", {"weight_map": sharded(pair, folder, weights(2))})
    (finding,) = only(pair.findings(), "conflicting_weight_files")
    assert says(finding, "model.safetensors", "holds other numbers", "transformers loads this file first", "remove")


def test_another_set_of_weights_in_the_old_format(pair: Pair) -> None:
    folder = pair.tuned.write()
    torch.save(weights(2), folder / "pytorch_model.bin")
    (finding,) = only(pair.findings(), "conflicting_weight_files")
    assert says(finding, "pytorch_model.bin", "holds other numbers", "other tools")


def test_a_pointer_beside_the_weights(pair: Pair) -> None:
    folder = pair.tuned.write()
    (folder / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (finding,) = only(pair.findings(), "conflicting_weight_files")
    assert says(finding, "pytorch_model.bin", "cannot be read")


def test_a_shard_that_no_index_names(pair: Pair) -> None:
    folder = pair.tuned.write()
    (folder / "model.safetensors").unlink()
    pair.tuned.put("model.safetensors.index.json", {"weight_map": sharded(pair, folder, pair.tuned.state)})
    save_file(weights(2), folder / "model-00001-of-00004.safetensors")
    (finding,) = only(pair.findings(), "unindexed_shards")
    assert says(finding, "model-00001-of-00004.safetensors", "no index names it")


def test_a_tensor_that_the_index_does_not_list(pair: Pair) -> None:
    folder = pair.tuned.write()
    (folder / "model.safetensors").unlink()
    extra = pair.tuned.state | {"model.extra.weight": torch.ones(3)}
    listed = {k: v for k, v in sharded(pair, folder, extra).items() if k in pair.tuned.state}
    pair.tuned.put("model.safetensors.index.json", {"weight_map": listed})
    (finding,) = only(pair.findings(), "unindexed_shards")
    assert says(finding, "model.safetensors.index.json:weight_map", "model.extra.weight")


def test_an_index_that_names_what_is_absent(pair: Pair) -> None:
    pair.tuned.write()
    pair.tuned.put("pytorch_model.bin.index.json", {"weight_map": {"a": "x" * 300 + ".bin"}})
    found = pair.findings()
    assert says(found["unindexed_shards"][0], "shard is missing", "pytorch_model.bin.index.json names")


def test_an_index_that_names_no_file(pair: Pair) -> None:
    pair.tuned.write()
    pair.tuned.put("pytorch_model.bin.index.json", {"weight_map": {"a": None}})
    found = pair.findings()["unindexed_shards"]
    assert [f.tensor for f in found] == ["pytorch_model.bin.index.json:weight_map"]


def test_an_adapter_left_beside_merged_weights(pair: Pair, fixture_pairs: Path) -> None:
    folder = pair.tuned.write()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(fixture_pairs / "lora" / name, folder / name)
    (finding,) = only(pair.findings(), "leftover_adapters")
    assert says(finding, "adapter_config.json, adapter_model.safetensors", "on top of them", "remove it")


def test_optimizer_states_and_older_saves(pair: Pair) -> None:
    folder = pair.tuned.write()
    (folder / "optimizer.pt").write_bytes(b"state")
    for step in (100, 200):
        (folder / f"checkpoint-{step}").mkdir()
    found = only(pair.findings(), "leftover_training_state")
    assert [f.tensor for f in found] == ["optimizer.pt", "checkpoint-100"]


def test_optimizer_states_among_the_tensors(pair: Pair) -> None:
    pair.tuned.state["optimizer.state.lm_head.weight.exp_avg"] = torch.ones(24, 16).bfloat16()
    (finding,) = only(pair.findings(), "leftover_training_state")
    assert says(finding, "exp_avg", "state dict alone")


def test_factors_that_were_not_merged(pair: Pair) -> None:
    weight = pair.tuned.state.pop("model.layers.0.self_attn.q_proj.weight")
    at = "model.layers.0.self_attn.q_proj"
    pair.tuned.state |= {
        f"{at}.base_layer.weight": weight,
        f"{at}.lora_A.default.weight": torch.ones(2, 16).bfloat16(),
        f"{at}.lora_B.default.weight": torch.ones(16, 2).bfloat16(),
    }
    found = only(pair.findings(), "unmerged_factors")
    assert [f.fault for f in found] == ["LoRA factors are not merged", "modules are still wrapped by the adapter"]
    assert says(found[0], "2 tensors", "merge_and_unload")


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "actor.", "base_model.model.", "module._orig_mod."])
def test_names_of_a_wrapped_model(pair: Pair, prefix: str) -> None:
    pair.tuned.state = {prefix + name: tensor for name, tensor in pair.tuned.state.items()}
    (finding,) = pair.findings()["wrapped_names"]
    assert says(finding, prefix.split(".")[0], "random weights")


def test_a_wrapper_in_some_names_alone(pair: Pair) -> None:
    state = pair.tuned.state
    moved = [name for name in state if ".mlp." in name]
    for name in moved:
        state[name.replace(".mlp.", "._checkpoint_wrapped_module.mlp.")] = state.pop(name)
    (finding,) = pair.findings()["wrapped_names"]
    assert says(finding, f"{len(moved)} of {len(state)} tensors")


def test_names_that_the_base_has_as_well_are_no_wrappers(pair: Pair) -> None:
    for side in (pair.base, pair.tuned):
        side.state = {f"policy.{name}": tensor for name, tensor in side.state.items()}
    assert "wrapped_names" not in pair.findings()


def test_transformers_loads_nothing_of_a_wrapped_models_names(fixture_pairs: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    shutil.copytree(fixture_pairs / "base", tmp_path / "wrapped")
    state = load_file(tmp_path / "wrapped" / "model.safetensors")
    for prefix in ("_orig_mod.", "module.", "actor."):
        save_file(
            {prefix + n: t for n, t in state.items()}, tmp_path / "wrapped" / "model.safetensors", {"format": "pt"}
        )
        loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "wrapped", output_loading_info=True)
        said = loaded[1]
        assert {"model.norm.weight", "model.layers.0.mlp.up_proj.weight"} <= set(said["missing_keys"])


def test_scales_that_nothing_declares(pair: Pair) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    for side in (pair.base, pair.tuned):
        weight = side.state[name].float()
        side.state[name] = (weight / weight.abs().max() * 448).to(torch.float8_e4m3fn)
        side.state[f"{name}_scale_inv"] = (weight.abs().max() / 448).reshape(1, 1)
        side.config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    assert "config_changes" not in pair.findings()
    del pair.tuned.config["quantization_config"]
    pair.tuned.write()
    (finding,) = pair.findings()["config_changes"]
    assert finding.tensor == "config.json:quantization_config"
    assert says(finding, "1 weights are stored as float8 with scales")


def test_a_tokenizer_that_was_not_saved(pair: Pair) -> None:
    folder = pair.tuned.write()
    (folder / "tokenizer.json").unlink()
    (finding,) = only(pair.findings(), "missing_files")
    assert says(finding, "tokenizer.json", "tokenizer.save_pretrained")


@pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json", "config.json"])
def test_a_file_that_the_base_has(pair: Pair, name: str) -> None:
    pair.base.generation["temperature"] = 0.6
    folder = pair.tuned.write()
    (folder / name).unlink()
    assert [f.tensor for f in pair.findings()["missing_files"]] == [name]


@pytest.mark.parametrize("more", [{"eos_token_id": [2, 3]}, {"temperature": 0.6}, {"pad_token_id": 4}])
def test_generation_settings_that_only_their_file_states(more: dict[str, object], pair: Pair) -> None:
    pair.base.generation |= more
    (pair.tuned.write() / "generation_config.json").unlink()
    assert [f.tensor for f in only(pair.findings(), "missing_files")] == ["generation_config.json"]


# Tokenizer and generation.


def test_two_tokens_exchanged(pair: Pair) -> None:
    pair.tuned.tokenizer["model"]["vocab"] |= {"a": 5, "b": 4}
    (finding,) = only(pair.findings(), "tokenizer_changes")
    assert says(finding, "tokenizer.json:vocab", "tokens exchanged", '"a" 4 to 5', '"b" 5 to 4')


def test_a_token_lost(pair: Pair) -> None:
    del pair.tuned.tokenizer["model"]["vocab"]["p"]
    (finding,) = only(pair.findings(), "tokenizer_changes")
    assert says(finding, "tokens lost", '"p" (id 19)')


def test_other_merges_and_other_rules(pair: Pair) -> None:
    pair.tuned.tokenizer["model"]["merges"].reverse()
    pair.tuned.tokenizer["normalizer"]["type"] = "NFKC"
    found = only(pair.findings(), "tokenizer_changes")
    assert [f.tensor for f in found] == ["tokenizer.json:merges", "tokenizer.json:normalizer.type"]
    assert says(found[1], '"NFC"', '"NFKC"')


def test_a_special_token_that_is_special_no_more(pair: Pair) -> None:
    pair.tuned.tokenizer["added_tokens"][2]["special"] = False
    (finding,) = only(pair.findings(), "tokenizer_changes")
    assert says(finding, '"<eos>"', "special", "true", "false")


def test_another_sentencepiece_model(pair: Pair) -> None:
    for side, contents in ((pair.base, b"one"), (pair.tuned, b"two")):
        (side.write() / "tokenizer.model").write_bytes(contents)
    (finding,) = only(pair.findings(), "tokenizer_changes")
    assert says(finding, "tokenizer.model", "not the base's")


def test_a_tokenizer_that_the_library_rebuilt_as_another_class(tmp_path: Path, fixture_pairs: Path) -> None:
    """Loaded by its model type, the bundled tokenizer of characters loses every space."""
    transformers = package("transformers")
    loaded = transformers.AutoTokenizer.from_pretrained(fixture_pairs / "base")
    plain = transformers.PreTrainedTokenizerFast.from_pretrained(fixture_pairs / "base")
    if loaded("1 + 2")["input_ids"] == plain("1 + 2")["input_ids"]:
        pytest.skip("this release of transformers keeps the tokenizer as it is")
    shutil.copytree(fixture_pairs / "base", tmp_path / "tuned")
    loaded.save_pretrained(tmp_path / "tuned")
    found = only(findings_of(evidence_of(fixture_pairs / "base", tmp_path / "tuned")), "tokenizer_changes")
    assert any(says(f, "tokenizer.json:model.type", '"WordLevel"', '"BPE"') for f in found)


def test_another_end_token_in_the_configuration(pair: Pair) -> None:
    pair.tuned.config["eos_token_id"] = 7
    (finding,) = only(pair.findings(), "special_token_changes")
    assert says(finding, "config.json:eos_token_id", "the base says 2, the tuned model 7")


def test_another_end_token_in_the_tokenizer(pair: Pair) -> None:
    pair.tuned.tokenizer_config["eos_token"] = "<pad>"
    found = only(pair.findings(), "special_token_changes")
    assert says(found[0], "tokenizer_config.json:eos_token", '"<eos>"', '"<pad>"')


@pytest.mark.parametrize("template", ["{{ messages }}", None])
def test_another_chat_template(pair: Pair, template: str | None) -> None:
    pair.tuned.tokenizer_config["chat_template"] = template
    (finding,) = only(pair.findings(), "chat_template_changes")
    assert says(finding, "tokenizer_config.json:chat_template", "{% for m in messages", template or "none")


def test_a_chat_template_that_the_base_does_not_have(pair: Pair) -> None:
    del pair.base.tokenizer_config["chat_template"]
    (finding,) = only(pair.findings(), "chat_template_changes")
    assert finding.fault == "chat template added"


@pytest.mark.parametrize(
    ("key", "value"), [("temperature", 0.3), ("eos_token_id", [5]), ("top_p", 0.5), ("repetition_penalty", 1.2)]
)
def test_another_setting_of_generation(pair: Pair, key: str, value: object) -> None:
    pair.tuned.generation[key] = value
    (finding,) = only(pair.findings(), "generation_config_changes")
    assert says(finding, f"generation_config.json:{key}", "copy the base's value")


def test_a_stop_token_lost(pair: Pair) -> None:
    pair.base.generation["eos_token_id"] = [2, 3]
    pair.tuned.generation["eos_token_id"] = 3
    (finding,) = only(pair.findings(), "generation_config_changes")
    assert says(finding, "[2, 3]")


# Rank files.


def ranks(folder: Path, config: dict[str, object], norms: list[float]) -> None:
    (folder / "huggingface").mkdir(parents=True)
    (folder / "huggingface" / "config.json").write_text(json.dumps(config))
    for rank, norm in enumerate(norms):
        state = weights(1) | {"model.norm.weight": torch.full((16,), norm).bfloat16()}
        torch.save(state, folder / f"model_world_size_{len(norms)}_rank_{rank}.pt")


def test_ranks_that_disagree_on_a_tensor_that_is_not_sharded(pair: Pair) -> None:
    ranks(pair.tuned.folder, pair.tuned.config, [1.0, 2.0])
    with pytest.raises(
        CheckpointError, match=r"rank_1\.pt: its model\.norm\.weight differs from that of \S+rank_0\.pt"
    ):
        pair.findings()


def test_ranks_that_agree(pair: Pair) -> None:
    ranks(pair.tuned.folder, pair.tuned.config, [1.0, 1.0])
    assert "rank_disagreements" not in pair.findings()


def test_a_configuration_beside_rank_files_that_does_not_fit_them(pair: Pair) -> None:
    ranks(pair.tuned.folder, pair.tuned.config | {"num_hidden_layers": 4}, [1.0])
    found = pair.findings()["config_shape_faults"]
    assert says(found[0], "huggingface/config.json:num_hidden_layers", "declares 4", "holds 3")


def test_weights_beside_rank_files_that_are_others(pair: Pair) -> None:
    ranks(pair.tuned.folder, pair.tuned.config, [1.0])
    save_file(weights(5), pair.tuned.folder / "huggingface" / "model.safetensors")
    found = pair.findings()["rank_disagreements"]
    assert says(found[0], "huggingface/", "holds other numbers", "export again")


def test_findings_do_not_touch_the_evidence(pair: Pair) -> None:
    evidence = pair.open()
    assert findings_of(evidence) == findings_of(evidence) == {}


@pytest.mark.parametrize("change", [{"pruned_heads": {"0": [1]}}, {"moe_drop_tokens": True}])
def test_keys_that_only_sound_like_training_are_compared(change: dict[str, object], pair: Pair) -> None:
    pair.tuned.config |= change
    assert len(only(pair.findings(), "config_changes")) == 1


def test_a_changed_order_of_classes_is_a_change(pair: Pair) -> None:
    pair.base.config["id2label"] = {"0": "good", "1": "bad"}
    pair.tuned.config["id2label"] = {"0": "bad", "1": "good"}
    assert only(pair.findings(), "config_changes")
