"""Each family as transformers saves it: roles, layers, shapes, and that no entry is lost or counted twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch

from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.pairing import ModelPair, pair_checkpoints

Save = Callable[[str], Path]
Shapes = dict[str, tuple[int, ...]]

ATTENTION: Shapes = {"q_proj": (32, 32), "k_proj": (16, 32), "v_proj": (16, 32), "o_proj": (32, 32)}
UNGROUPED: Shapes = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), (32, 32))
ONE_KEY: Shapes = ATTENTION | {"k_proj": (8, 32), "v_proj": (8, 32)}
CROSS: Shapes = {f"cross_attn.{role}": shape for role, shape in UNGROUPED.items()}
GATED: Shapes = {"gate_proj": (48, 32), "up_proj": (48, 32), "down_proj": (32, 48)}
PLAIN: Shapes = {"up_proj": (48, 32), "down_proj": (32, 48)}
WIDE: Shapes = {"up_proj": (128, 32), "down_proj": (32, 128)}
DENSE: Shapes = ATTENTION | GATED
ROUTED: Shapes = ATTENTION | {"router": (4, 32)}
STACKED: Shapes = {"gate_proj": (4, 48, 32), "up_proj": (4, 48, 32), "down_proj": (4, 32, 48)}

EMBED: Shapes = {"embed_tokens": (96, 32)}
HEADED: Shapes = EMBED | {"lm_head": (96, 32)}

LAYERS: dict[str, dict[str, Shapes]] = {
    "llama": {"layers": DENSE},
    "qwen2": {"layers": DENSE},
    "qwen3": {"layers": DENSE},
    "gemma2": {"layers": DENSE},
    "gemma3": {"layers": DENSE},
    "glm4": {"layers": DENSE},
    "phi3": {"layers": DENSE},
    "gpt2": {"layers": UNGROUPED | WIDE},
    "gpt_neox": {"layers": UNGROUPED | PLAIN},
    "bloom": {"layers": UNGROUPED | WIDE},
    "falcon_7b": {"layers": ONE_KEY | WIDE},
    "falcon_rw": {"layers": UNGROUPED | WIDE},
    "falcon_40b": {"layers": ATTENTION | WIDE},
    "starcoder": {"layers": ONE_KEY | WIDE},
    "starcoder_mha": {"layers": UNGROUPED | WIDE},
    "qwen3_moe": {
        "layers": ROUTED | {"gate_proj": (24, 32), "up_proj": (24, 32), "down_proj": (32, 24)},
    },
    "mixtral": {"layers": ROUTED | GATED},
    "gpt_oss": {"layers": ROUTED | STACKED},
    "bert": {"encoder.layers": UNGROUPED | PLAIN},
    "roberta": {"encoder.layers": UNGROUPED | PLAIN},
    "t5_plain": {
        "encoder.layers": UNGROUPED | PLAIN,
        "decoder.layers": UNGROUPED | CROSS | PLAIN,
    },
    "t5": {
        "encoder.layers": UNGROUPED | GATED,
        "decoder.layers": UNGROUPED | CROSS | GATED,
    },
    "qwen3_vl_moe": {
        "layers": ROUTED | {"gate_proj": (4, 24, 32), "up_proj": (4, 24, 32), "down_proj": (4, 32, 24)},
        "visual.layers": UNGROUPED | {"up_proj": (64, 32), "down_proj": (32, 64)},
    },
    "qwen2_vl": {
        "layers": DENSE,
        "visual.layers": UNGROUPED | {"up_proj": (64, 32), "down_proj": (32, 64)},
    },
}
OUTSIDE: dict[str, Shapes] = {
    "gpt2": EMBED | {"position_embeddings": (1024, 32)},
    "starcoder": EMBED | {"position_embeddings": (1024, 32)},
    "starcoder_mha": EMBED | {"position_embeddings": (1024, 32)},
    "roberta": EMBED
    | {"position_embeddings": (64, 32), "token_type_embeddings": (2, 32), "head_transform": (32, 32)},
    **dict.fromkeys(("gemma2", "gemma3", "bloom", "falcon_7b", "falcon_rw", "falcon_40b", "t5", "t5_plain"), EMBED),
    "bert": EMBED | {"position_embeddings": (64, 32), "token_type_embeddings": (2, 32), "head_transform": (32, 32)},
    "qwen3_vl_moe": HEADED
    | {
        "visual.deepstack_merger_list.0.linear_fc1": (128, 128),
        "visual.deepstack_merger_list.0.linear_fc2": (32, 128),
        "visual.merger.linear_fc1": (128, 128),
        "visual.merger.linear_fc2": (32, 128),
        "visual.patch_embed.proj": (32, 3, 2, 4, 4),
        "visual.position_embeddings": (2304, 32),
    },
    "qwen2_vl": HEADED
    | {
        "visual.merger.mlp.0": (128, 128),
        "visual.merger.mlp.2": (32, 128),
        "visual.patch_embed.proj": (32, 3, 2, 4, 4),
    },
}
EVERY = sorted({*LAYERS, "llama4", "qwen2_moe"})


def with_itself(folder: Path) -> ModelPair:
    checkpoint = open_checkpoint(folder)
    return pair_checkpoints(checkpoint, checkpoint)


def matrices(pair: ModelPair, subject: str) -> dict[str, set[tuple[int, ...]]]:
    found: dict[str, set[tuple[int, ...]]] = {}
    for tensor in pair.subjects[subject]:
        if tensor.is_matrix and tensor.place.role != "relative_attention_bias":
            found.setdefault(tensor.place.role, set()).add(tensor.shape)
    return found


@pytest.mark.parametrize("family", LAYERS)
def test_every_layer_has_the_roles_and_shapes_of_its_architecture(family: str, saved: Save) -> None:
    pair = with_itself(saved(family))
    assert pair.layers == tuple(f"{stack}.{i}" for stack in sorted(LAYERS[family]) for i in (0, 1))
    for subject in pair.layers:
        expected = LAYERS[family][subject.rpartition(".")[0]]
        assert matrices(pair, subject) == {role: {shape} for role, shape in expected.items()}


@pytest.mark.parametrize("family", LAYERS)
def test_what_stands_outside_the_layers(family: str, saved: Save) -> None:
    pair = with_itself(saved(family))
    outside = {s: t.shape for s, ts in pair.subjects.items() if s not in pair.layers for t in ts if t.is_matrix}
    assert outside == OUTSIDE.get(family, HEADED)


@pytest.mark.parametrize("family", EVERY)
def test_everything_aligns_with_itself_and_nothing_is_kept_whole(family: str, saved: Save) -> None:
    pair = with_itself(saved(family))
    assert pair.unaligned == ()
    assert pair.notes == ()


@pytest.mark.parametrize("family", EVERY)
def test_the_weights_hold_each_stored_entry_exactly_once(family: str, saved: Save) -> None:
    checkpoint = open_checkpoint(saved(family))
    numbered, entries = {}, 0
    for name, handle in checkpoint.tensors.items():
        numbers = torch.arange(entries, entries + handle.parameters, dtype=torch.float64)
        numbered[name] = handle.with_tensor(numbers.reshape(handle.shape))
        entries += handle.parameters
    pair = pair_checkpoints(*[replace(checkpoint, tensors=numbered)] * 2)
    for tensor in pair.aligned:
        assert tensor.base.read().shape == tensor.shape
        assert prod(tensor.matrix_shape) == tensor.base.parameters
    seen = torch.cat([tensor.base.read().flatten() for tensor in pair.aligned])
    assert torch.equal(seen.sort().values, torch.arange(entries, dtype=torch.float64))


def test_a_mixture_counts_each_expert(saved: Save) -> None:
    pair = with_itself(saved("mixtral"))
    experts = [t for t in pair.select(["expert"])["layers.0"] if t.place.role == "down_proj"]
    assert [t.place.expert for t in experts] == [0, 1, 2, 3]
    assert Counter(t.place.role for t in pair.select(["expert"])["layers.1"]) == dict.fromkeys(GATED, 4)


def test_a_stack_names_each_expert(saved: Save) -> None:
    pair = with_itself(saved("gpt_oss"))
    (gate,) = (t for t in pair.select(["gate_proj"])["layers.0"] if t.is_matrix)
    assert gate.matrix_shape == (4, 48, 32)
    stored = "model.layers.0.mlp.experts.gate_up_proj"
    assert gate.matrix_names() == tuple(f"{stored}[gate_proj][{i}]" for i in range(4))


def test_the_biases_of_stacked_experts_are_vectors(saved: Save) -> None:
    pair = with_itself(saved("gpt_oss"))
    biases = {t.place.role: t for t in pair.select(["bias"])["layers.0"]}
    assert biases["up_proj.bias"].matrix_shape == (4, 1, 48)
    assert not any(t.is_matrix for t in biases.values())
    assert {"gate_proj.bias", "down_proj.bias", "router.bias", "q_proj.bias"} <= biases.keys()


def test_shared_experts_and_their_gate_beside_the_routed_ones(saved: Save) -> None:
    pair = with_itself(saved("qwen2_moe"))
    shared = [t for t in pair.select(["expert"])["layers.0"] if t.place.expert is None]
    assert {t.place.role: t.shape for t in shared} == {
        "gate_proj": (40, 32),
        "up_proj": (40, 32),
        "down_proj": (32, 40),
    }
    assert {t.place.role for t in pair.select(["router"])["layers.0"]} == {"router", "shared_expert_gate"}


def test_llama4_has_stacked_routed_experts_beside_a_shared_one(saved: Save) -> None:
    pair = with_itself(saved("llama4"))
    mlp = {(t.place.role, t.stacked): t.shape for t in pair.select(["mlp"])["layers.0"]}
    assert mlp == {(role, True): shape for role, shape in STACKED.items()} | {
        (role, False): shape for role, shape in GATED.items()
    }


@pytest.mark.parametrize("family", EVERY)
def test_groups_select_what_their_names_say(family: str, saved: Save) -> None:
    pair = with_itself(saved(family))
    assert set(pair.select(["attention"])) == set(pair.select(["mlp"])) == set(pair.layers)
    assert "embed_tokens" in pair.select(["embedding"])
    norms = {t.place.role for ts in pair.select(["norm"]).values() for t in ts}
    assert norms
    assert all("norm" in role.lower() or "ln_" in role for role in norms)
    biases = [t for ts in pair.select(["bias"]).values() for t in ts]
    assert all(t.name.partition("[")[0].endswith("bias") for t in biases)
