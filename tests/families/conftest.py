"""Tiny models, randomly initialised by transformers from its own config classes and saved by save_pretrained."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import package

transformers: Any = package("transformers")

TEXT = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
GPT = {k: v for k, v in TEXT.items() if k not in ("num_key_value_heads", "max_position_embeddings")}
FALCON = {k: v for k, v in GPT.items() if k != "intermediate_size"}
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
VISION = {
    "depth": 2,
    "embed_dim": 32,
    "hidden_size": 32,
    "num_heads": 4,
    "mlp_ratio": 2,
    "in_channels": 3,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
YARN_OFF = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}

MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("Llama", "ForCausalLM", TEXT),
    "qwen2": ("Qwen2", "ForCausalLM", TEXT),
    "qwen3": ("Qwen3", "ForCausalLM", TEXT | {"head_dim": 8}),
    "qwen2_moe": (
        "Qwen2Moe",
        "ForCausalLM",
        TEXT | {"num_experts": 4, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40},
    ),
    "qwen3_moe": (
        "Qwen3Moe",
        "ForCausalLM",
        TEXT | {"head_dim": 8, "num_experts": 4, "moe_intermediate_size": 24, "num_experts_per_tok": 2},
    ),
    "mixtral": ("Mixtral", "ForCausalLM", TEXT | {"num_local_experts": 4}),
    "gemma2": ("Gemma2", "ForCausalLM", TEXT | {"head_dim": 8}),
    "gemma3": ("Gemma3", "ForCausalLM", TEXT | {"head_dim": 8}),
    "phi3": ("Phi3", "ForCausalLM", TEXT),
    "gpt2": ("GPT2", "LMHeadModel", {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4} | SPECIAL),
    "gpt_neox": ("GPTNeoX", "ForCausalLM", GPT),
    "bloom": ("Bloom", "ForCausalLM", {"vocab_size": 96, "hidden_size": 32, "n_layer": 2, "n_head": 4} | SPECIAL),
    "falcon_7b": ("Falcon", "ForCausalLM", FALCON),
    "falcon_rw": ("Falcon", "ForCausalLM", FALCON | {"multi_query": False, "bias": True}),
    "falcon_40b": ("Falcon", "ForCausalLM", FALCON | {"num_kv_heads": 2, "new_decoder_architecture": True}),
    "starcoder": (
        "GPTBigCode",
        "ForCausalLM",
        {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4} | SPECIAL,
    ),
    "starcoder_mha": (
        "GPTBigCode",
        "ForCausalLM",
        {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "multi_query": False} | SPECIAL,
    ),
    "glm4": ("Glm4", "ForCausalLM", TEXT | {"head_dim": 8}),
    "bert": ("Bert", "ForMaskedLM", {k: v for k, v in TEXT.items() if k != "num_key_value_heads"}),
    "roberta": ("Roberta", "ForMaskedLM", {k: v for k, v in TEXT.items() if k != "num_key_value_heads"}),
    "t5_plain": (
        "T5",
        "ForConditionalGeneration",
        {"vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
        | {"feed_forward_proj": "relu", "decoder_start_token_id": 0},
    ),
    "t5": (
        "T5",
        "ForConditionalGeneration",
        {"vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
        | {"feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0},
    ),
    "qwen2_vl": ("Qwen2VL", "ForConditionalGeneration", {"text_config": TEXT, "vision_config": VISION}),
    "qwen3_vl_moe": (
        "Qwen3VLMoe",
        "ForConditionalGeneration",
        {
            "text_config": TEXT | {"head_dim": 8, "num_experts": 4, "moe_intermediate_size": 24},
            "vision_config": {k: v for k, v in VISION.items() if k not in ("embed_dim", "mlp_ratio")}
            | {"intermediate_size": 64, "out_hidden_size": 32, "deepstack_visual_indexes": [0]},
        },
    ),
    "llama4": (
        "Llama4",
        "ForCausalLM",
        TEXT | {"head_dim": 8, "num_local_experts": 4, "intermediate_size_mlp": 40},
    ),
    "gpt_oss": ("GptOss", "ForCausalLM", TEXT | {"head_dim": 8, "num_local_experts": 4} | YARN_OFF),
}


@cache
def build(family: str) -> Any:
    """The family's model, one for all tests: its weights are not to be changed."""
    name, task, settings = MODELS[family]
    suffix = "TextConfig" if family in ("gemma3", "llama4") else "Config"
    config = getattr(transformers, f"{name}{suffix}")(**settings)
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}{task}")(config).eval()
    with torch.no_grad():
        # Biases start at zero and norms at one, where a mistaken slice would not show.
        for parameter in model.parameters():
            parameter.normal_(0, 0.1)
    return model


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder that save_pretrained wrote for a family."""

    @cache
    def save(family: str) -> Path:
        folder = tmp_path_factory.mktemp(family)
        build(family).save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def model() -> Callable[[str], Any]:
    return build
