"""Damages to a release as such: layers and heads exchanged, parts left out, documents that disagree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.mutations.mutation import Mutation, Strength, on_release
from benchmarks.mutations.release import Release

Apply = Callable[[Release, Release, Strength], None]


def exchanged(one: str, other: str) -> Apply:
    """What stands in the name of one is the other's, and the other way round."""

    def apply(damaged: Release, base: Release, strength: Strength) -> None:
        before = dict(damaged.state)
        for name, tensor in before.items():
            partner = name.replace(one, other) if one in name else name.replace(other, one)
            if partner != name and before[partner].shape == tensor.shape:
                damaged.state[name] = before[partner]

    return apply


def at_base(*layers: int) -> Apply:
    """These layers are the base's."""

    def apply(damaged: Release, base: Release, strength: Strength) -> None:
        beginnings = tuple(f"model.layers.{layer}." for layer in layers)
        damaged.state |= {n: t for n, t in base.state.items() if n.startswith(beginnings)}

    return apply


def restored(*endings: str) -> Apply:
    """What ends so is the base's."""

    def apply(damaged: Release, base: Release, strength: Strength) -> None:
        damaged.state |= {n: t for n, t in base.state.items() if n.endswith(endings)}

    return apply


def stale_rank(damaged: Release, base: Release, strength: Strength) -> None:
    """The second quarter of the rows of every tensor is the base's."""
    for name, tensor in damaged.state.items():
        rows = -(-len(tensor) // 4)
        mixed = tensor.clone()
        mixed[rows : 2 * rows] = base.state[name][rows : 2 * rows]
        damaged.state[name] = mixed


def permuted_heads(damaged: Release, base: Release, strength: Strength) -> None:
    """The attention heads of the queries stand in reverse order."""
    size = damaged.config["hidden_size"] // damaged.config["num_attention_heads"]
    for name in [n for n in damaged.state if n.endswith("q_proj.weight")]:
        weight = damaged.state[name]
        damaged.state[name] = weight.view(-1, size, weight.shape[1]).flip(0).flatten(0, 1)


def permuted_experts(damaged: Release, base: Release, strength: Strength) -> None:
    """Experts stand in another order, and routers do not know it."""
    for name in [n for n in damaged.state if "block_sparse_moe" in n and damaged.state[n].ndim == 3]:
        damaged.state[name] = damaged.state[name].roll(1, 0)


def expert_at_base(damaged: Release, base: Release, strength: Strength) -> None:
    """The first expert of every layer is the base's."""
    for name in [n for n in damaged.state if "block_sparse_moe" in n and damaged.state[n].ndim == 3]:
        mixed = damaged.state[name].clone()
        mixed[0] = base.state[name][0]
        damaged.state[name] = mixed


def cut_vocabulary(damaged: Release, base: Release, strength: Strength) -> None:
    """The last rows of embeddings and head are lost, and the config says so."""
    rows = damaged.config["vocab_size"] - int(float(strength))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        damaged.state[name] = damaged.state[name][:rows].clone()
    damaged.config["vocab_size"] = rows


def retyped(pattern: str, dtype: torch.dtype) -> Apply:
    """Tensors are stored in another type, and the config does not say so."""

    def apply(damaged: Release, base: Release, strength: Strength) -> None:
        damaged.state |= {n: t.to(dtype) for n, t in damaged.state.items() if n.endswith(pattern)}

    return apply


def dropped(pattern: str) -> Apply:
    """Tensors are missing."""

    def apply(damaged: Release, base: Release, strength: Strength) -> None:
        damaged.state = {n: t for n, t in damaged.state.items() if not n.endswith(pattern)}

    return apply


def foreign_tensor(damaged: Release, base: Release, strength: Strength) -> None:
    """Factors of an adapter lie beside the weights."""
    damaged.state["model.layers.0.self_attn.q_proj.lora_A.weight"] = torch.zeros(8, 192, dtype=torch.bfloat16)


def configured(key: str) -> Apply:
    """A key of config.json has another value."""

    def apply(damaged: Release, base: Release, strength: Strength) -> None:
        place: dict[str, Any] = damaged.config
        *path, last = key.split(".")
        for part in path:
            place = place[part]
        place[last] = strength

    return apply


def tokens_exchanged(damaged: Release, base: Release, strength: Strength) -> None:
    """Two ordinary tokens trade their numbers."""
    vocabulary = damaged.documents["tokenizer.json"]["model"]["vocab"]
    one, other = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]


def template_changed(damaged: Release, base: Release, strength: Strength) -> None:
    """A chat template that the base does not have."""
    damaged.documents["tokenizer_config.json"]["chat_template"] = "{{ messages[0].content }}"


def generation_end(damaged: Release, base: Release, strength: Strength) -> None:
    """generation_config.json ends with another token."""
    damaged.documents["generation_config.json"]["eos_token_id"] = 5


def shuffled_update(damaged: Release, base: Release, strength: Strength) -> None:
    """The update of each matrix has its entries in another order: as large, and of no use."""
    for name in [n for n in damaged.state if n.endswith("_proj.weight")]:
        damaged.state[name] = _scattered(base.state[name], damaged.state[name])


def _scattered(before: Tensor, after: Tensor) -> Tensor:
    update = (after.float() - before.float()).flatten()
    order = torch.randperm(update.numel(), generator=torch.Generator().manual_seed(0))
    return (before.float() + update[order].view(before.shape)).to(after.dtype)


CONFIG: dict[str, tuple[Strength, ...]] = {
    "rope_parameters.rope_theta": (10100.0, 20000.0, 1000000.0),
    "rms_norm_eps": (2e-6, 1e-5, 1e-2),
    "num_hidden_layers": (3,),
    "num_attention_heads": (12,),
    "num_key_value_heads": (3,),
    "vocab_size": (128,),
    "hidden_act": ("gelu",),
    "model_type": ("llama",),
    "sliding_window": (16,),
    "max_position_embeddings": (512,),
    "eos_token_id": (5,),
    "dtype": ("float32",),
    "tie_word_embeddings": (True,),
}


def mutations() -> list[Mutation]:
    """All of them."""
    layers = [
        ("one inner layer", (1,)),
        ("the last layer", (3,)),
        ("half of the layers", (1, 3)),
        ("the last half", (2, 3)),
    ]
    hybrid = [
        ("permute experts", "all layers", permuted_experts),
        ("expert at the base", "all layers", expert_at_base),
    ]
    return [
        on_release("exchange", "layers 1 and 2", exchanged("layers.1.", "layers.2.")),
        on_release("exchange", "keys and values", exchanged("k_proj", "v_proj")),
        on_release("exchange", "gate and up", exchanged("gate_proj", "up_proj")),
        on_release("exchange", "head and embeddings", exchanged("lm_head", "model.embed_tokens")),
        on_release("permute heads", "queries", permuted_heads),
        *(on_release("at the base", place, at_base(*numbers)) for place, numbers in layers),
        on_release("at the base", "one role (up_proj)", restored("up_proj.weight")),
        on_release("at the base", "one matrix", restored("layers.1.mlp.up_proj.weight")),
        on_release("at the base", "output head", restored("lm_head.weight")),
        on_release("at the base", "everything", restored("")),
        on_release("stale rank", "a quarter of all rows", stale_rank),
        on_release("shuffle the update", "all matrices of layers", shuffled_update),
        on_release("cut vocabulary", "embeddings and head", cut_vocabulary, (1, 10, 50), unit="rows"),
        on_release("type float16", "everything", retyped("", torch.float16)),
        on_release("type float32", "one matrix", retyped("layers.1.mlp.up_proj.weight", torch.float32)),
        on_release("drop", "one matrix", dropped("layers.1.mlp.up_proj.weight")),
        on_release("drop", "output head", dropped("lm_head.weight")),
        on_release("add", "adapter factors", foreign_tensor),
        *(on_release("config", key, configured(key), values) for key, values in CONFIG.items()),
        on_release("tokenizer", "two tokens exchanged", tokens_exchanged),
        on_release("tokenizer", "chat template", template_changed),
        on_release("generation", "end token", generation_end),
        *(on_release(kind, place, apply, pair="hybrid") for kind, place, apply in hybrid),
    ]
