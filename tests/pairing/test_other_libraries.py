"""A Hugging Face base against what torchtitan and Megatron-Core store of the same model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ckptaudit.checkpoints import Checkpoint, TensorHandle
from ckptaudit.pairing import ModelPair, pair_checkpoints

HEADS, KV_HEADS, LAYERS = 4, 2, 3
CONFIG: dict[str, object] = {
    "model_type": "qwen2",
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "hidden_size": 32,
}
SHAPES = {
    "input_layernorm.weight": (32,),
    "self_attn.q_proj.weight": (32, 32),
    "self_attn.k_proj.weight": (16, 32),
    "self_attn.v_proj.weight": (16, 32),
    "self_attn.o_proj.weight": (32, 32),
    "post_attention_layernorm.weight": (32,),
    "mlp.gate_proj.weight": (48, 32),
    "mlp.up_proj.weight": (48, 32),
    "mlp.down_proj.weight": (32, 48),
}
TITAN = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "tok_embeddings",
    "lm_head": "output",
    "model.": "",
}


def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    held = {f"model.layers.{i}.{n}": torch.randn(shape) for i in range(LAYERS) for n, shape in SHAPES.items()}
    outside = {"model.embed_tokens.weight": (96, 32), "model.norm.weight": (32,), "lm_head.weight": (96, 32)}
    return held | {name: torch.randn(shape) for name, shape in outside.items()}


def checkpoint(tensors: dict[str, Tensor], config: dict[str, object]) -> Checkpoint:
    blank = TensorHandle("", (), "", Path("made"), lambda: torch.empty(0))
    return Checkpoint("made", "made", {n: blank.with_tensor(t) for n, t in sorted(tensors.items())}, config)


def in_titan() -> dict[str, Tensor]:
    def renamed(name: str) -> str:
        for word, other in TITAN.items():
            name = name.replace(word, other)
        return name

    return {renamed(name): tensor for name, tensor in weights().items()}


def in_megatron() -> dict[str, Tensor]:
    """As Megatron-Core fuses: queries, key and value of each key-value head in turn; the gate above the other."""
    held: dict[str, Tensor] = weights()
    found: dict[str, Tensor] = {}
    for i in range(LAYERS):
        at, to = f"model.layers.{i}", f"decoder.layers.{i}"
        q, k, v = (held[f"{at}.self_attn.{x}_proj.weight"].reshape(KV_HEADS, -1, 32) for x in "qkv")
        found |= {
            f"{to}.self_attention.linear_qkv.weight": torch.cat([q, k, v], 1).reshape(-1, 32),
            f"{to}.self_attention.linear_qkv.layer_norm_weight": held[f"{at}.input_layernorm.weight"],
            f"{to}.self_attention.linear_proj.weight": held[f"{at}.self_attn.o_proj.weight"],
            f"{to}.mlp.linear_fc1.weight": torch.cat([held[f"{at}.mlp.{x}_proj.weight"] for x in ("gate", "up")]),
            f"{to}.mlp.linear_fc1.layer_norm_weight": held[f"{at}.post_attention_layernorm.weight"],
            f"{to}.mlp.linear_fc2.weight": held[f"{at}.mlp.down_proj.weight"],
        }
    return found | {
        "embedding.word_embeddings.weight": held["model.embed_tokens.weight"],
        "decoder.final_layernorm.weight": held["model.norm.weight"],
        "output_layer.weight": held["lm_head.weight"],
    }


def stacked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As torch_dist stores layers that are alike: one tensor of each kind, the layer on its first axis."""
    outside = {name: tensor for name, tensor in tensors.items() if "layers" not in name}
    behind = {name.split(".", 3)[3] for name in tensors if "layers" in name}
    return outside | {
        f"decoder.layers.{rest}": torch.stack([tensors[f"decoder.layers.{i}.{rest}"] for i in range(LAYERS)])
        for rest in behind
    }


def assert_equal_everywhere(pair: ModelPair) -> None:
    assert pair.unaligned == ()
    assert len(pair.aligned) == LAYERS * len(SHAPES) + 3
    assert all(torch.equal(t.base.read(), t.tuned.read()) for t in pair.aligned)
    assert pair.layers == tuple(f"layers.{i}" for i in range(LAYERS))


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    "other", [in_titan(), in_megatron(), stacked(in_megatron())], ids=["titan", "mcore", "stacks"]
)
def test_every_weight_aligns(other: dict[str, Tensor], swapped: bool) -> None:
    sides = (checkpoint(weights(), CONFIG), checkpoint(other, {}))
    assert_equal_everywhere(pair_checkpoints(*(reversed(sides) if swapped else sides)))


def test_a_change_in_one_layer_of_a_stack_shows_there_alone() -> None:
    other = stacked(in_megatron())
    other["decoder.layers.mlp.linear_fc2.weight"][1] += 1
    pair = pair_checkpoints(checkpoint(weights(), CONFIG), checkpoint(other, {}))
    (moved,) = (t for t in pair.aligned if not torch.equal(t.base.read(), t.tuned.read()))
    assert (moved.place.layer, moved.place.role) == (1, "down_proj")


def test_a_header_that_claims_many_layers_makes_no_views() -> None:
    claimed = TensorHandle("x", (10**9, 0, 4), "float32", Path("made"), lambda: torch.empty(0))
    names = {"decoder.layers.self_attention.linear_qkv.weight": claimed}
    side = Checkpoint("made", "made", names, {})
    assert [t.name for t in pair_checkpoints(side, side).aligned] == [*names]


def test_a_tower_without_a_name_of_its_own_is_not_taken_for_the_decoder() -> None:
    config = CONFIG | {"model_type": "qwen3_vl"}
    held = {name: tensor for name, tensor in weights().items() if "layers" not in name}
    tower = {"blocks.0.attn.qkv.weight": torch.randn(96, 32), "blocks.0.attn.proj.weight": torch.randn(32, 32)}
    decoder = {name: tensor for name, tensor in weights().items() if "layers.0.self_attn" in name}
    pair = pair_checkpoints(checkpoint(held | tower, config), checkpoint(held | decoder, config))
    assert {t.name for t in pair.aligned} == {*held}
