"""Tiny models of transformers' families: its own config classes with small numbers, its own random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "d_model": 32,
    "intermediate_size": 48,
    "intermediate_size_mlp": 48,
    "ffn_hidden_size": 48,
    "expert_ffn_hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 24),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "top_k"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "num_shared_experts", "num_shared_expert"), 1),
    **dict.fromkeys(("moe_num_shared_experts", "first_k_dense_replace", "n_groups", "mamba_n_groups"), 1),
    "zero_expert_num": 2,
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "qk_head_dim": 12,
    "v_head_dim": 8,
    "index_head_dim": 8,
    "index_n_heads": 2,
    "o_groups": 2,
    "o_lora_rank": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_head_dim": 8,
    "linear_num_heads": 4,
    "depth": 2,
    "num_heads": 4,
    "out_hidden_size": 32,
    "embed_dim": 32,
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_d_state", "ssm_state_size", "state_size"), 8),
    "mamba_d_ssm": 64,
    "mamba_dt_rank": 4,
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 48),
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 96,
    "laurel_rank": 4,
    "image_size": 28,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Set wherever a configuration has the attribute."""


@dataclass(frozen=True)
class Tiny:
    """What a family's configuration needs at birth, and what is set afterwards where the sizes do not do."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    loader: str = "AutoModelForCausalLM"


def layers(*kinds: str, mlp: str = "") -> dict[str, Any]:
    """Four layers that alternate between these kinds; with `mlp`, the first is dense and the others are that."""
    types = {"num_hidden_layers": 4, "layer_types": [*kinds] * (4 // len(kinds))}
    return types | ({"mlp_layer_types": ["dense", *[mlp] * 3]} if mlp else {})


FOUR = Tiny({"num_hidden_layers": 4})
IMAGES = Tiny(loader="AutoModelForImageTextToText")
LINEAR = layers("linear_attention", "full_attention")
SLIDING = layers("sliding_attention", "full_attention")
LINEAR_AFTER = {"layer_types": LINEAR["layer_types"]}
GEMMA = SLIDING | {"num_kv_shared_layers": 0}

FAMILIES: dict[str, Tiny] = {
    **dict.fromkeys(("qwen3_moe", "deepseek_v3", "glm4_moe", "mixtral", "phi3", "phimoe", "ernie4_5_moe"), Tiny()),
    **dict.fromkeys(("nemotron_h", "minimax_m2", "hunyuan_v1_moe", "falcon_h1", "bamba", "rwkv", "olmoe"), Tiny()),
    **dict.fromkeys(("glm4_moe_lite", "glm_moe_dsa", "cohere2_moe", "hy_v3", "dots1"), FOUR),
    **dict.fromkeys(("solar_open", "mimo_v2_flash", "afmoe", "smollm3", "exaone4", "seed_oss"), FOUR),
    **dict.fromkeys(("mistral3", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "glm4v_moe", "kimi_k25"), IMAGES),
    "gpt_oss": Tiny(after={"layer_types": SLIDING["layer_types"]}),
    "longcat_flash": Tiny(after={"num_layers": 2}),
    "qwen3_next": Tiny(after=LINEAR_AFTER),
    "qwen3_5": Tiny(after={"text_config": LINEAR_AFTER}, loader="AutoModelForImageTextToText"),
    "qwen3_5_moe": Tiny(after={"text_config": LINEAR_AFTER}, loader="AutoModelForImageTextToText"),
    "minimax": Tiny(after=LINEAR_AFTER),
    "granitemoehybrid": Tiny(LINEAR),
    "olmo_hybrid": Tiny(LINEAR),
    "kimi_linear": Tiny(LINEAR | {"mlp_layer_types": ["dense", *["sparse"] * 3]}),
    "bailing_hybrid": Tiny(LINEAR | {"mlp_layer_types": ["dense", *["sparse"] * 3]}),
    "deepseek_v32": Tiny(layers("indexed_attention", mlp="sparse")),
    "deepseek_v4": Tiny(
        layers("heavily_compressed_attention", "compressed_sparse_attention")
        | {"mlp_layer_types": ["hash_moe", *["moe"] * 3]}
    ),
    "lfm2": Tiny(layers("conv", "full_attention")),
    "lfm2_moe": Tiny(layers("conv", "full_attention")),
    "jamba": Tiny(
        after={
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
        }
    ),
    "mamba2": Tiny(
        {"num_heads": 8, "head_dim": 8, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "n_groups": 1}
        | {"vocab_size": 96}
    ),
    "gemma3n_text": Tiny(GEMMA | {"intermediate_size": [48] * 4, "activation_sparsity_pattern": [0.0] * 4}),
    "gemma4_text": Tiny(
        GEMMA
        | {key: SIZES[key] for key in ("hidden_size", "num_attention_heads", "head_dim", "vocab_size")}
        | {"intermediate_size": 48, "num_key_value_heads": 2, "global_head_dim": 8}
        | {"vocab_size_per_layer_input": 96, "hidden_size_per_layer_input": 8}
    ),
    "llama4": Tiny(
        after={"vision_config": {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32}},
        loader="AutoModelForImageTextToText",
    ),
    "modernbert": Tiny({"num_hidden_layers": 4}, loader="AutoModelForMaskedLM"),
    "t5gemma": Tiny(loader="AutoModelForSeq2SeqLM"),
    "whisper": Tiny(loader="AutoModelForSpeechSeq2Seq"),
    "gpt_neox": Tiny(),
    "aria_text": Tiny(),
    "exaone": FOUR,
    "mistral4": Tiny(FOUR.settings, loader="AutoModel"),
}


def tiny_model(family: str) -> Any:
    """The family's model in small, with every parameter random: a norm of ones would hide a mistaken slice."""
    case = FAMILIES[family]
    config = transformers.CONFIG_MAPPING[family](**case.settings)
    _shrink(config, case.settings, case.after)
    torch.manual_seed(0)
    model = getattr(transformers, case.loader).from_config(config)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.normal_(0, 0.1)
    return model.eval()


def _shrink(config: Any, fixed: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    known = {*vars(config), *getattr(type(config), "__annotations__", {})} - {*fixed}
    for key in known & {*SIZES}:
        if not isinstance(getattr(config, key, None), list | tuple):
            setattr(config, key, SIZES[key])
    inner = getattr(config, "sub_configs", None) or {}
    for key, value in after.items():
        if key not in inner:
            setattr(config, key, value)
    for key in inner:
        part = getattr(config, key, None)
        if part is not None and not isinstance(part, dict):
            _shrink(part, {}, after.get(key, {}))
