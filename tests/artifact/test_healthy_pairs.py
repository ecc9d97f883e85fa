"""Healthy releases give no findings: the bundled runs, and what save_pretrained of several releases writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.artifact.releases import Pair, evidence_of, findings_of, only
from tests.conftest import package

RUNS = ["rlvr", "rlvr-gentle", "rlvr-gentle-seed1", "rlvr-gentle-seed2", "rlvr-step40", "rlvr-step70", "sft"]


def test_a_tuned_copy_with_all_its_files_gives_no_findings(pair: Pair) -> None:
    assert pair.findings() == {}


@pytest.mark.parametrize("run", RUNS)
def test_bundled_runs_only_lack_what_saves_during_training_lack(run: str, fixture_pairs: Path) -> None:
    found = findings_of(evidence_of(fixture_pairs / "base", fixture_pairs / run))
    assert [f.tensor for f in only(found, "weights_only")] == ["tokenizer.json", "generation_config.json"]


def test_a_base_against_itself_gives_no_findings(fixture_pairs: Path) -> None:
    assert findings_of(evidence_of(fixture_pairs / "base", fixture_pairs / "base")) == {}


@pytest.mark.parametrize("adapter", ["lora", "pissa"])
def test_an_adapter_leaves_its_files_to_the_base(adapter: str, fixture_pairs: Path) -> None:
    from ckptaudit.artifact import open_artifact
    from ckptaudit.checkpoints import merge_adapter, open_checkpoint

    base = open_checkpoint(fixture_pairs / "base")
    tuned = merge_adapter(base, open_checkpoint(fixture_pairs / adapter))
    assert findings_of(open_artifact(base, tuned)) == {}


def older(config: dict[str, Any]) -> dict[str, Any]:
    """The same configuration as releases 4 of transformers wrote it."""
    rope = dict(config["rope_parameters"])
    kept = {k: v for k, v in config.items() if k not in ("rope_parameters", "dtype", "layer_types")}
    theta = rope.pop("rope_theta")
    scaling = None if rope == {"rope_type": "default"} else {**rope, "type": rope.pop("rope_type")}
    return kept | {
        "rope_theta": theta, "rope_scaling": scaling, "torch_dtype": config["dtype"],
        "transformers_version": "4.44.2", "_name_or_path": "org/base", "use_cache": True, "attention_dropout": 0.0,
    }  # fmt: skip


def test_an_older_release_of_the_library_wrote_the_base(pair: Pair) -> None:
    pair.base.config = dict(reversed(older(pair.base.config).items()))
    assert pair.findings() == {}


def test_the_new_form_of_the_position_embedding_says_the_same(pair: Pair) -> None:
    rope = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64}
    pair.base.config["rope_parameters"] = pair.tuned.config["rope_parameters"] = rope
    pair.base.config = older(pair.base.config)
    assert pair.findings() == {}


def test_keys_at_their_class_default_may_be_added_by_another_release(pair: Pair) -> None:
    for key in (
        "rms_norm_eps",
        "rope_parameters",
        "hidden_act",
        "sliding_window",
        "use_sliding_window",
        "layer_types",
    ):
        del pair.base.config[key]
    pair.base.config["transformers_version"] = "4.40.0"
    pair.tuned.config |= {"attention_dropout": 0.1, "initializer_range": 0.02, "use_cache": False, "new_key": 7}
    assert pair.findings() == {}


def test_a_base_of_its_text_part_alone_states_few_keys(pair: Pair) -> None:
    """As Gemma 3 was released: everything at its default is left out."""
    full = dict(pair.tuned.config, model_type="gemma3_text", rope_parameters={
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }, sliding_window=1024, layer_types=["sliding_attention"] * 2 + ["full_attention"])  # fmt: skip
    kept = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "sliding_window", "vocab_size")  # fmt: skip
    outer = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "dtype": "bfloat16",
             "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
    pair.base.config = {**outer, "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0", "text_config": {
        **{k: full[k] for k in kept}, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    }}  # fmt: skip
    pair.tuned.config = {**outer, "transformers_version": "5.24.0", "text_config": full}
    assert pair.findings() == {}


def test_flat_and_nested_configurations_of_one_model_are_one(pair: Pair) -> None:
    text = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "vocab_size", "rope_parameters", "rms_norm_eps", "hidden_act")  # fmt: skip
    nested = {k: v for k, v in pair.tuned.config.items() if k not in text}
    inner = {k: pair.tuned.config[k] for k in text}
    pair.base.config["transformers_version"] = "4.51.0"
    pair.tuned.config = nested | {"text_config": {**inner, "model_type": "qwen2"}}
    assert pair.findings() == {}


def test_trainers_write_the_tokenizers_ids_into_the_configuration(pair: Pair) -> None:
    pair.base.config["eos_token_id"] = pair.base.generation["eos_token_id"] = 3
    pair.base.config["pad_token_id"] = None
    pair.tuned.generation["eos_token_id"] = [2, 3]
    assert pair.findings() == {}


def test_merges_and_templates_may_be_stored_in_another_form(pair: Pair) -> None:
    pair.tuned.tokenizer["model"]["merges"] = [["a", "b"], ["c", "d"]]
    pair.tuned.tokenizer["truncation"] = {"max_length": 512}
    template = pair.tuned.tokenizer_config.pop("chat_template")
    pair.tuned.tokenizer_config |= {"padding_side": "left", "model_max_length": 512}
    pair.tuned.write()
    (pair.tuned.folder / "chat_template.jinja").write_text(template + "\r\n")
    assert pair.findings() == {}


@pytest.mark.parametrize("more", [{}, {"_from_model_config": True, "do_sample": False, "top_k": 50}])
def test_generation_settings_that_say_no_more_than_the_configuration_may_be_missing(
    more: dict[str, object], pair: Pair
) -> None:
    pair.base.generation |= more
    (pair.tuned.write() / "generation_config.json").unlink()
    assert pair.findings() == {}


def test_keys_that_the_library_writes_while_it_trains_are_no_change(pair: Pair) -> None:
    pair.tuned.config |= {"problem_type": "single_label_classification", "mask_time_prob": 0.05}
    pair.tuned.config |= {"apply_spec_augment": False, "freeze_backbone": True}
    assert pair.findings() == {}


def test_new_tokens_at_new_rows_are_no_change(pair: Pair) -> None:
    pair.tuned.tokenizer["added_tokens"].append({"id": 20, "content": "<tool>", "special": True})
    assert pair.findings() == {}


def test_padding_rows_of_the_base_are_how_the_model_is_built(pair: Pair) -> None:
    for side in (pair.base, pair.tuned):
        side.config["vocab_size"] = 20
    assert pair.findings() == {}


def test_a_separate_copy_of_a_tied_head_is_no_fault(pair: Pair) -> None:
    for side in (pair.base, pair.tuned):
        side.config["tie_word_embeddings"] = True
        side.state["lm_head.weight"] = side.state["model.embed_tokens.weight"].clone()
    del pair.base.state["lm_head.weight"]
    assert pair.findings() == {}


def test_an_untied_copy_of_a_tied_head_is_no_fault(pair: Pair) -> None:
    pair.base.config["tie_word_embeddings"] = True
    pair.tuned.state["lm_head.weight"] = pair.tuned.state["model.embed_tokens.weight"].clone()
    del pair.base.state["lm_head.weight"]
    assert pair.findings() == {}


def test_a_kind_that_every_layer_stores_wider_is_no_stray(pair: Pair) -> None:
    for side in (pair.base, pair.tuned):
        for i in range(3):
            side.state[f"model.layers.{i}.mlp.gate.weight"] = torch.ones(2, 16)
    assert pair.findings() == {}


def test_a_trainers_save_holds_its_states_by_design(pair: Pair) -> None:
    folder = pair.tuned.write()
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (folder / name).write_bytes(b"state")
    (folder / "trainer_state.json").write_text("{}")
    assert pair.findings() == {}


def test_an_equal_copy_of_the_weights_is_no_conflict(pair: Pair) -> None:
    folder = pair.tuned.write()
    shutil.copy(folder / "model.safetensors", folder / "model-00001-of-00001.safetensors")
    names = dict.fromkeys(pair.tuned.state, "model-00001-of-00001.safetensors")
    pair.tuned.put("model.safetensors.index.json", {"weight_map": names})
    assert pair.findings() == {}


def test_nothing_beside_the_tensors_on_both_sides_is_nothing_to_compare(pair: Pair) -> None:
    for side in (pair.base, pair.tuned):
        folder = side.write()
        for file in folder.glob("*.json"):
            file.unlink()
    assert pair.findings() == {}


def test_spaces_of_sentencepiece_are_written_in_two_ways(pair: Pair) -> None:
    """As the normalizer of older conversions, and as the pre-tokenizer that releases 5 write for Llama 2."""
    marks = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    pair.base.tokenizer |= {"normalizer": {"type": "Sequence", "normalizers": marks}, "pre_tokenizer": None}
    pair.base.tokenizer["model"]["unk_token"] = "<unk>"
    pair.tuned.tokenizer |= {
        "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
    }
    pair.tuned.tokenizer["model"]["unk_token"] = None
    assert pair.findings() == {}
    pair.tuned.tokenizer["pre_tokenizer"]["prepend_scheme"] = "never"
    pair.tuned.write()
    (finding,) = only(pair.findings(), "tokenizer_changes")
    assert finding.tensor == "tokenizer.json:spaces"


FAMILIES = {
    "qwen2": {"num_key_value_heads": 2}, "llama": {"num_key_value_heads": 2}, "gpt2": {},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 16}, "gemma3_text": {"num_key_value_heads": 2, "head_dim": 16},
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 24, "num_key_value_heads": 2, "head_dim": 16},
    "gpt_neox": {},
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_what_save_pretrained_writes_twice_gives_no_findings(family: str, tmp_path: Path) -> None:
    transformers = package("transformers")
    sizes = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = transformers.CONFIG_MAPPING[family](
        **sizes, num_attention_heads=2, **FAMILIES[family], bos_token_id=1, eos_token_id=2
    )
    model = transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    model.config.use_cache = False
    model.save_pretrained(tmp_path / "tuned", max_shard_size="30KB")
    rewritten = json.loads((tmp_path / "base" / "config.json").read_text()) | {"transformers_version": "4.55.0"}
    rewritten["torch_dtype"] = rewritten.pop("dtype")
    (tmp_path / "base" / "config.json").write_text(json.dumps(dict(reversed(rewritten.items()))))
    assert findings_of(evidence_of(tmp_path / "base", tmp_path / "tuned")) == {}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_peft_merges_and_a_tokenizer_saves_gives_no_findings(tmp_path: Path, fixture_pairs: Path) -> None:
    transformers, peft = package("transformers"), package("peft")
    model = transformers.AutoModelForCausalLM.from_pretrained(fixture_pairs / "base", dtype=torch.bfloat16)
    merged = peft.PeftModel.from_pretrained(model, fixture_pairs / "lora").merge_and_unload()
    merged.save_pretrained(tmp_path / "tuned")
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(fixture_pairs / "base")
    tokenizer.save_pretrained(tmp_path / "tuned")
    assert findings_of(evidence_of(fixture_pairs / "base", tmp_path / "tuned")) == {}
