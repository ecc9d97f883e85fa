"""What a configuration means where it says nothing: switches that are on by default, and keys that a save lost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from ckptaudit.artifact.config_defaults import class_defaults
from tests.artifact.releases import Pair, only


def changed_keys(pair: Pair) -> list[str]:
    found = pair.findings()
    return [f.tensor for f in only(found, "config_changes")] if found else []


@pytest.mark.parametrize(
    ("kind", "key", "base", "tuned"),
    [
        ("qwen2", "is_causal", None, False),
        ("deepseek_v3", "rope_interleave", True, False),
        ("deepseek_v3", "rope_interleave", None, False),
        ("gpt_neox", "use_parallel_residual", False, None),
        ("falcon", "alibi", True, None),
        ("falcon", "multi_query", None, False),
        ("gpt_oss", "swiglu_limit", 7.5, None),
        ("qwen2_vl", "image_token_id", 7, None),
        ("deepseek_v3", "first_k_dense_replace", 1, None),
        ("qwen3_moe", "norm_topk_prob", True, None),
        ("deepseek_v3", "norm_topk_prob", False, None),
    ],
)
@pytest.mark.parametrize("release", ["5.24.0", "4.51.3"])
def test_a_key_that_one_side_lacks_is_a_change(
    kind: str, key: str, base: object, tuned: object, release: str, pair: Pair
) -> None:
    for side, value in ((pair.base, base), (pair.tuned, tuned)):
        side.config["model_type"] = kind
        if value is not None:
            side.config[key] = value
    pair.base.config["transformers_version"] = release
    assert changed_keys(pair) == [f"config.json:{key}"]


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("qwen2", "is_causal", True),
        ("qwen2", "is_decoder", False),
        ("deepseek_v3", "rope_interleave", True),
        ("gpt_neox", "use_parallel_residual", True),
        ("deepseek_v3", "norm_topk_prob", True),
        ("qwen3_moe", "norm_topk_prob", False),
        ("vit", "freeze_backbone", True),
        ("vit", "use_focal_loss", False),
    ],
)
@pytest.mark.parametrize("stated_by", ["base", "tuned"])
@pytest.mark.parametrize("release", ["5.24.0", "4.51.3"])
def test_a_switch_at_its_default_says_no_more_than_its_absence(
    kind: str, key: str, value: object, stated_by: str, release: str, pair: Pair
) -> None:
    for side in (pair.base, pair.tuned):
        side.config["model_type"] = kind
    (pair.base if stated_by == "base" else pair.tuned).config[key] = value
    pair.base.config["transformers_version"] = release
    assert changed_keys(pair) == []


@pytest.mark.parametrize(
    ("kind", "changed"), [("qwen2", {"is_causal": False}), ("gpt_neox", {"use_parallel_residual": False})]
)
def test_the_library_computes_something_else_with_such_a_switch(kind: str, changed: dict[str, Any]) -> None:
    sizes: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4, "vocab_size": 64,
    }  # fmt: skip
    outputs = []
    for more in ({}, changed):
        torch.manual_seed(0)
        config = transformers.CONFIG_MAPPING[kind](**sizes, **more)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "norm" not in name:
                    weight.mul_(8)
            outputs.append(model(torch.arange(8)[None]).logits)
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-3)


def test_the_table_names_every_switch_that_is_on_by_default() -> None:
    """Read off the classes that are installed, which may be of another release than the table."""
    for kind in ("gpt_neox", "falcon", "deepseek_v3", "t5", "gpt2"):
        own = transformers.CONFIG_MAPPING[kind]()
        known = class_defaults({"model_type": kind}) or {}
        for name in ("use_parallel_residual", "multi_query", "rope_interleave", "scale_attn_weights"):
            if getattr(own, name, None) is True:
                assert known[name] is True
