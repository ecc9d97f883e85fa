"""A known change to one sub-matrix shows in exactly that weight, by exactly that much, and nowhere else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from ckptaudit.checkpoints import Checkpoint, open_checkpoint
from ckptaudit.pairing import AlignedTensor, pair_checkpoints

Save = Callable[[str], Path]
Build = Callable[[str], Any]

HEAD = 8  # rows of one head in every tiny model
ALL = slice(None)


class Change(NamedTuple):
    """Add 1 to a region of a parameter in memory; then `subject`'s `role` moves, by 1 in `entries` entries."""

    family: str
    parameter: str
    region: tuple[Any, ...]
    subject: str
    role: str
    entries: int
    expert: int | None = None


def rows(start: int, count: int = HEAD) -> tuple[slice]:
    return (slice(start, start + count),)


LLAMA_LIKE = [
    Change(family, f"model.layers.1.{module}.weight", (ALL,), "layers.1", role, size)
    for family in ("llama", "qwen2", "qwen3", "qwen3_moe", "mixtral", "gemma2", "gemma3", "llama4", "gpt_oss")
    for module, role, size in (
        ("self_attn.q_proj", "q_proj", 1024),
        ("self_attn.k_proj", "k_proj", 512),
        ("self_attn.v_proj", "v_proj", 512),
        ("self_attn.o_proj", "o_proj", 1024),
        ("input_layernorm", "input_layernorm", 32),
    )
]
DENSE = [
    Change(family, f"model.layers.0.mlp.{role}.weight", (ALL,), "layers.0", role, 48 * 32)
    for family in ("llama", "qwen2", "qwen3", "gemma2", "gemma3")
    for role in ("gate_proj", "up_proj", "down_proj")
]
BIASES = [
    Change("qwen2", f"model.layers.0.self_attn.{role}.bias", (ALL,), "layers.0", f"{role}.bias", size)
    for role, size in (("q_proj", 32), ("k_proj", 16), ("v_proj", 16))
]

NEOX = "gpt_neox.layers.0.attention.query_key_value"
FALCON = "transformer.h.1.self_attention.query_key_value.weight"
PHI3 = "model.layers.0.self_attn.qkv_proj.weight"
PHI3_MLP = "model.layers.1.mlp.gate_up_proj.weight"
PATCH = "patch_embed.proj"
GPT2 = "transformer.h.0.attn.c_attn"
FUSED = [
    # GPT-NeoX: head 2 holds its query, key and value in rows 48 to 72.
    Change("gpt_neox", f"{NEOX}.weight", rows(48), "layers.0", "q_proj", 256),
    Change("gpt_neox", f"{NEOX}.weight", rows(56), "layers.0", "k_proj", 256),
    Change("gpt_neox", f"{NEOX}.weight", rows(64), "layers.0", "v_proj", 256),
    Change("gpt_neox", f"{NEOX}.bias", rows(56), "layers.0", "k_proj.bias", 8),
    # Falcon 40B: two queries, a key and a value for each of two key-value heads.
    Change("falcon_40b", FALCON, rows(32, 16), "layers.1", "q_proj", 512),
    Change("falcon_40b", FALCON, rows(48), "layers.1", "k_proj", 256),
    Change("falcon_40b", FALCON, rows(24), "layers.1", "v_proj", 256),
    # Falcon 7B: four queries, then one key and one value.
    Change("falcon_7b", FALCON, rows(24), "layers.1", "q_proj", 256),
    Change("falcon_7b", FALCON, rows(32), "layers.1", "k_proj", 256),
    Change("falcon_7b", FALCON, rows(40), "layers.1", "v_proj", 256),
    # Falcon RW: as GPT-NeoX.
    Change("falcon_rw", FALCON, rows(32), "layers.1", "k_proj", 256),
    # Phi-3: 32 rows of queries, 16 of keys, 16 of values; the gate above the up projection.
    Change("phi3", PHI3, rows(24), "layers.0", "q_proj", 256),
    Change("phi3", PHI3, rows(40), "layers.0", "k_proj", 256),
    Change("phi3", PHI3, rows(48), "layers.0", "v_proj", 256),
    Change("phi3", PHI3_MLP, rows(0, 48), "layers.1", "gate_proj", 48 * 32),
    Change("phi3", PHI3_MLP, rows(48, 48), "layers.1", "up_proj", 48 * 32),
    # GPT-2: columns, not rows.
    Change("gpt2", f"{GPT2}.weight", (ALL, slice(0, 32)), "layers.0", "q_proj", 1024),
    Change("gpt2", f"{GPT2}.weight", (ALL, slice(32, 64)), "layers.0", "k_proj", 1024),
    Change("gpt2", f"{GPT2}.weight", (ALL, slice(64, 96)), "layers.0", "v_proj", 1024),
    Change("gpt2", f"{GPT2}.bias", rows(32, 32), "layers.0", "k_proj.bias", 32),
    Change("gpt2", "transformer.h.1.mlp.c_proj.weight", (5,), "layers.1", "down_proj", 32),
    Change("starcoder_mha", f"{GPT2}.weight", rows(32), "layers.0", "k_proj", 256),
    Change("starcoder", f"{GPT2}.weight", rows(32), "layers.0", "k_proj", 256),
    Change("bloom", "transformer.h.0.self_attention.query_key_value.weight", rows(8), "layers.0", "k_proj", 256),
    # Qwen2-VL: thirds, in the tower alone.
    Change("qwen2_vl", "model.visual.blocks.1.attn.qkv.weight", rows(40), "visual.layers.1", "k_proj", 256),
    Change(
        "qwen2_vl", "model.visual.patch_embed.proj.weight", (3,), "visual.patch_embed.proj", "patch_embed.proj", 96
    ),
    Change("qwen2_vl", "model.language_model.layers.1.mlp.up_proj.weight", (7,), "layers.1", "up_proj", 32),
    Change("qwen2_vl", "model.visual.merger.mlp.2.weight", (ALL,), "visual.merger.mlp.2", "merger.mlp.2", 4096),
]
MEMORY = "model.layers.0.mlp.experts.gate_up_proj"
VL_MOE = "model.language_model.layers.0.mlp.experts.gate_up_proj"
EXPERTS = [
    # In memory both are stacked, gate above up; on disk each expert has its own tensors.
    Change("mixtral", MEMORY, (2, slice(0, 48)), "layers.0", "gate_proj", 1536, 2),
    Change("mixtral", MEMORY, (3, slice(48, 96)), "layers.0", "up_proj", 1536, 3),
    Change("mixtral", "model.layers.1.mlp.experts.down_proj", (0,), "layers.1", "down_proj", 1536, 0),
    Change("mixtral", "model.layers.1.mlp.gate.weight", (1,), "layers.1", "router", 32),
    Change("qwen3_moe", MEMORY, (1, slice(24, 48)), "layers.0", "up_proj", 768, 1),
    Change("qwen3_moe", "model.layers.0.mlp.gate.weight", (1,), "layers.0", "router", 32),
    Change("qwen3_vl_moe", VL_MOE, (1, slice(0, 24)), "layers.0", "gate_proj", 768, 1),
    Change("qwen3_vl_moe", VL_MOE, (1, slice(24, 48)), "layers.0", "up_proj", 768, 1),
    # Stacked on disk too: Llama 4 in halves, gpt-oss by turns.
    Change(
        "llama4",
        "model.layers.0.feed_forward.experts.gate_up_proj",
        (1, ALL, slice(0, 48)),
        "layers.0",
        "gate_proj",
        1536,
        1,
    ),
    Change("llama4", "model.layers.0.feed_forward.experts.down_proj", (3,), "layers.0", "down_proj", 1536, 3),
    Change("llama4", "model.layers.0.feed_forward.router.weight", (3,), "layers.0", "router", 32),
    Change(
        "gpt_oss",
        MEMORY,
        (1, ALL, slice(0, None, 2)),
        "layers.0",
        "gate_proj",
        1536,
        1,
    ),
    Change("gpt_oss", MEMORY, (2, ALL, 1), "layers.0", "up_proj", 32, 2),
    Change("gpt_oss", "model.layers.0.mlp.experts.gate_up_proj_bias", (2, 1), "layers.0", "up_proj.bias", 1, 2),
]
ENCODERS = [
    Change(
        "bert",
        f"bert.encoder.layer.1.{module}.weight",
        (ALL,),
        "encoder.layers.1",
        role,
        size,
    )
    for module, role, size in (
        ("attention.self.query", "q_proj", 1024),
        ("attention.self.key", "k_proj", 1024),
        ("attention.self.value", "v_proj", 1024),
        ("attention.output.dense", "o_proj", 1024),
        ("intermediate.dense", "up_proj", 1536),
        ("output.dense", "down_proj", 1536),
    )
] + [
    Change("t5", f"{name}.weight", (ALL,), f"{stack}.layers.{layer}", role, size)
    for name, stack, layer, role, size in (
        ("encoder.block.1.layer.0.SelfAttention.k", "encoder", 1, "k_proj", 1024),
        ("decoder.block.1.layer.0.SelfAttention.k", "decoder", 1, "k_proj", 1024),
        ("decoder.block.0.layer.1.EncDecAttention.k", "decoder", 0, "cross_attn.k_proj", 1024),
        ("decoder.block.0.layer.2.DenseReluDense.wi_0", "decoder", 0, "gate_proj", 1536),
        ("encoder.block.0.layer.1.DenseReluDense.wo", "encoder", 0, "down_proj", 1536),
    )
]
CHANGES = [*LLAMA_LIKE, *DENSE, *BIASES, *FUSED, *EXPERTS, *ENCODERS]


def changed_copy(change: Change, network: Any, folder: Path) -> Checkpoint:
    """The model with the change made in memory, saved by transformers like the base."""
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.get_parameter(change.parameter)[change.region] += 1.0
    other.save_pretrained(folder)
    return open_checkpoint(folder)


def moved(tensor: AlignedTensor) -> torch.Tensor:
    return tensor.tuned.read().double() - tensor.base.read().double()


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: f"{c.family}-{c.parameter}-{c.role}")
def test_a_change_shows_in_its_weight_alone(change: Change, saved: Save, model: Build, tmp_path: Path) -> None:
    tuned = changed_copy(change, model(change.family), tmp_path)
    pair = pair_checkpoints(open_checkpoint(saved(change.family)), tuned)
    assert (pair.unaligned, pair.notes) == ((), ())
    (found,) = (t for t in pair.aligned if moved(t).any())
    assert (found.place.subject, found.place.role) == (change.subject, change.role)
    difference = moved(found)
    torch.testing.assert_close(difference.abs().sum(), torch.tensor(float(change.entries)).double())
    if change.expert is not None:
        expert = difference.flatten(1).any(1).nonzero().item() if found.stacked else found.place.expert
        assert expert == change.expert
