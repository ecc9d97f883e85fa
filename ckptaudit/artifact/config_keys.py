"""What keys of config.json mean to a comparison: which cannot change the model's numbers, and what absence means.

The rules are about kinds of keys, not about single models:

- Keys of provenance, of the running environment and of training alone cannot change what the released weights
  compute; they are never compared.
- Keys with a metric of their own (types, tie, vocabulary, special tokens, quantisation) are compared there.
- An absent key has its class's default. Files do not state those defaults, so absence equals the neutral values
  (null, false, 0, empty) and the usual default of the key, where it has one; a switch that its class has on by
  default is on where it is absent. When both files were written by the
  same release of transformers, one of them cannot lack a key that the other has: any other value is a change.
  Between releases a key that is lost still is one where its words decide attention, positions, norms, scales or
  routing; a key that is added is one where class_defaults.json knows another default of this model type.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

PROVENANCE = frozenset({
    "_name_or_path", "name_or_path", "transformers_version", "_commit_hash", "unsloth_version", "unsloth_fixed",
    "model_name", "finetuning_task", "task_specific_params", "custom_pipelines", "is_local", "license",
})  # fmt: skip
ENVIRONMENT = frozenset({
    "use_cache", "output_attentions", "output_hidden_states", "output_router_logits", "return_dict",
    "use_return_dict", "return_dict_in_generate", "torchscript", "use_bfloat16", "gradient_checkpointing",
    "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal", "attn_implementation",
    "_flash_attn_2_enabled", "use_flash_attn", "_experts_implementation", "experts_implementation",
    "pretraining_tp", "chunk_size_feed_forward", "tf_legacy_loss", "base_model_tp_plan",
    "base_model_pp_plan", "use_mamba_kernels", "remove_invalid_values",
})  # fmt: skip
TRAINING = re.compile(
    r"((?!.*token).*drop(out|_?path|_rate|_prob)?(_.*)?|.*_pdrop|layerdrop|.*layerdrop|initializer_.*|.*_initializer|init_.*"
    r"|problem_type|apply_spec_augment|mask_(time|feature)_.*|ctc_zero_infinity|.*aux_loss.*|.*z_loss.*|seq_aux"
    r"|(.*_)?loss(_.*)?|(.*_)?freeze(_.*)?|.*_jitter_noise|jitter_noise|label_smoothing.*)"
)
OWN_METRIC = frozenset({
    "dtype", "torch_dtype", "tie_word_embeddings", "vocab_size", "quantization_config", "compression_config",
    "bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "decoder_start_token_id", "sep_token_id",
    "cls_token_id", "mask_token_id", "forced_eos_token_id", "forced_bos_token_id",
})  # fmt: skip
GENERATION = frozenset({
    "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty",
    "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "suppress_tokens",
    "begin_suppress_tokens", "exponential_decay_length_penalty", "prefix", "output_scores",
})  # fmt: skip
"""Settings of generation that old releases kept in config.json; readers take them from generation_config.json."""

LONGEST = 200
"""No real key is longer; the end of one that is longer is looked at, so that time stays linear."""

ROPE = frozenset({
    "rope_theta", "rope_scaling", "rope_parameters", "rope_local_base_freq", "rotary_emb_base",
    "partial_rotary_factor", "rotary_pct", "original_max_position_embeddings",
})  # fmt: skip
"""Keys that are brought into one form; others about the position embedding are compared as they stand."""

BEHAVIOUR = re.compile(
    r"(rope|rotary|position|theta|eps|epsilon|window|attention|attn|layer_types|softcap|scal(e|ing)|multiplier"
    r"|norm|act|router|topk|top_k|n_group|num_|hidden|model_type|architectures|auto_map|bias|chunk|block|patch"
    r"|image_size|kv_shared|sparse|index|alibi|causal|parallel|interleave|limit|token_id|first_k)"
)
"""Keys that decide what the weights compute, by their words. They are changes whatever release wrote the file."""

STRICT = re.compile(
    r"(use_)?sliding_window|[^.]*softcap[^.]*|[^.]*_eps|[^.]*epsilon|hidden_act|hidden_activation|[^.]*multiplier"
    r"|[^.]*scaling[^.]*|query_pre_attn_scalar|norm_topk_prob|scoring_func|topk_method|attention_bias|qkv_bias"
    r"|mlp_bias|use_bias"
)
"""Keys whose defaults `class_defaults.json` lists for every model type that it knows."""

ON_BY_DEFAULT = frozenset({"is_causal", "position_biased_input"})
"""Switches that code reads as true where the file says nothing, although no class states them."""

USUAL: Mapping[str, tuple[object, ...]] = {
    "rope_theta": (10000, 10000.0),
    "rms_norm_eps": (1e-6, 1e-5),
    "layer_norm_eps": (1e-5, 1e-12),
    "layer_norm_epsilon": (1e-5,),
    "hidden_act": ("silu",),
    "pretraining_tp": (1,),
    "partial_rotary_factor": (1.0,),
    "max_window_layers": (28,),
    "num_return_sequences": (1,),
    "embedding_multiplier": (1.0,),
    "logits_scaling": (1.0,),
    "residual_multiplier": (1.0,),
    "attention_multiplier": (1.0,),
    "routed_scaling_factor": (1.0,),
    "n_group": (1,),
    "topk_group": (1,),
    "scale_attn_weights": (True,),
    "norm_topk_prob": (True,),
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
}
"""Values that a class takes most often where the file says nothing; stating them is no change."""


def is_harmless(key: str) -> bool:
    """Whether a key, of whatever part of the configuration, cannot change what the weights compute."""
    return (
        key in PROVENANCE
        or key in ENVIRONMENT
        or key in GENERATION
        or TRAINING.fullmatch(key[-LONGEST:]) is not None
    )


def decides_behaviour(key: str) -> bool:
    """Whether a key, by its words, decides what the weights compute."""
    return BEHAVIOUR.search(key[-LONGEST:]) is not None


def is_strict(key: str) -> bool:
    """Whether the table of defaults covers this key: not naming it there means a neutral default."""
    return key.startswith("rope.") or STRICT.fullmatch(key[-LONGEST:]) is not None


def has_own_metric(key: str) -> bool:
    """Whether another metric of the artifact compares this key."""
    return key in OWN_METRIC


def is_neutral(value: object) -> bool:
    """Whether a value says no more than an absent key."""
    return value is None or (isinstance(value, bool | int | float | str | list | dict) and not value)
