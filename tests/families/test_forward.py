"""The second opinion on every division: what the models themselves compute from the fused tensors.

One token at position 0, where rotary embeddings turn by nothing, so that queries and keys are seen as projected.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.naming import Naming
from ckptaudit.pairing import pair_checkpoints

Save = Callable[[str], Path]
Build = Callable[[str], Any]

FUSED = {
    "phi3": "model.layers.0.self_attn.qkv_proj",
    "gpt2": "transformer.h.0.attn.c_attn",
    "gpt_neox": "gpt_neox.layers.0.attention.query_key_value",
    "starcoder": "transformer.h.0.attn.c_attn",
    "starcoder_mha": "transformer.h.0.attn.c_attn",
}
SPLITTERS = {
    "falcon_7b": ("transformer.h.0.self_attention", "_split_heads"),
    "falcon_rw": ("transformer.h.0.self_attention", "_split_heads"),
    "falcon_40b": ("transformer.h.0.self_attention", "_split_heads"),
    "bloom": ("transformer.h.0.self_attention", "_reshape"),
}
TOKEN = torch.tensor([[5]])


def weights(folder: Path, subject: str) -> dict[str, Tensor]:
    checkpoint = open_checkpoint(folder)
    tensors = pair_checkpoints(checkpoint, checkpoint).subjects[subject]
    return {t.place.role: t.base.read() for t in tensors if t.place.role != "relative_attention_bias"}


def projected(held: dict[str, Tensor], role: str, x: Tensor) -> Tensor:
    return x @ held[role].T + held.get(f"{role}.bias", torch.zeros(()))


def inputs_of(module: torch.nn.Module) -> list[Tensor]:
    seen: list[Tensor] = []
    module.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach()))
    return seen


def attended(model: Any, monkeypatch: pytest.MonkeyPatch, attention: type) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What a model hands to its attention function, `[heads, tokens, head size]` of query, key and value."""
    home = sys.modules[attention.__module__]
    original = home.eager_attention_forward
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def watch(module: Any, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **more: Any) -> Any:
        seen.append((query[0].detach(), key[0].detach(), value[0].detach()))
        return original(module, query, key, value, *rest, **more)

    monkeypatch.setattr(home, "eager_attention_forward", watch)
    model.set_attn_implementation("eager")
    return seen


def assert_projects(held: dict[str, Tensor], x: Tensor, seen: tuple[Tensor, ...]) -> None:
    for role, heads in zip(("q_proj", "k_proj", "v_proj"), seen, strict=True):
        torch.testing.assert_close(projected(held, role, x), heads.reshape(-1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FUSED)
def test_a_fused_projection_is_divided_as_the_model_divides_it(
    family: str, saved: Save, model: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = model(family)
    fused = network.get_submodule(FUSED[family])
    x, seen = inputs_of(fused), attended(network, monkeypatch, type(network))
    with torch.no_grad():
        network(TOKEN)
    assert_projects(weights(saved(family), "layers.0"), x[0].flatten(), seen[0])


@pytest.mark.parametrize("family", SPLITTERS)
def test_a_model_that_splits_by_itself(
    family: str, saved: Save, model: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, (path, method) = model(family), SPLITTERS[family]
    attention = network.get_submodule(path)
    x, seen, original = inputs_of(attention.query_key_value), [], getattr(attention, method)

    def watch(fused: Tensor) -> Any:
        parts = original(fused)
        seen.append(tuple(part.detach() for part in parts))
        return parts

    monkeypatch.setattr(attention, method, watch)
    with torch.no_grad():
        network(TOKEN)
    query, key, value = (part.reshape(-1, 8) for part in seen[0])
    held = weights(saved(family), "layers.0")
    # The model repeats each key and value for the queries that share it; the weights hold them once.
    repeats = len(key) // (held["k_proj"].shape[0] // 8)
    assert_projects(held, x[0].flatten(), (query, key[::repeats], value[::repeats]))


def test_a_vision_tower_beside_the_language_model(
    saved: Save, model: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = model("qwen2_vl")
    tower = network.model.visual
    x, seen = inputs_of(tower.blocks[0].attn.qkv), attended(tower, monkeypatch, type(network))
    with torch.no_grad():
        tower(torch.randn(4, 96), grid_thw=torch.tensor([[1, 2, 2]]))
    first_patch = tuple(part[:, 0] for part in seen[0])
    assert_projects(weights(saved("qwen2_vl"), "visual.layers.0"), x[0][0], first_patch)


@pytest.mark.parametrize("family", ["phi3", "glm4"])
def test_gate_and_up(family: str, saved: Save, model: Build) -> None:
    network = model(family)
    mlp = network.model.layers[0].mlp
    x, products = inputs_of(mlp.gate_up_proj), inputs_of(mlp.down_proj)
    with torch.no_grad():
        network(TOKEN)
    held, x0 = weights(saved(family), "layers.0"), x[0].flatten()
    product = silu(projected(held, "gate_proj", x0)) * projected(held, "up_proj", x0)
    torch.testing.assert_close(product, products[0].flatten(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("expert", range(4))
def test_stacked_experts_of_llama4(expert: int, saved: Save, model: Build) -> None:
    x = torch.randn(32)
    with torch.no_grad():
        out = model("llama4").model.layers[0].feed_forward.experts(x.expand(4, 32))[expert]
    held = _of_expert(saved("llama4"), expert)
    hidden = silu(held["gate_proj"] @ x) * (held["up_proj"] @ x)
    torch.testing.assert_close(held["down_proj"] @ hidden, out, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("expert", range(4))
def test_stacked_experts_of_gpt_oss(expert: int, saved: Save, model: Build) -> None:
    experts, x = model("gpt_oss").model.layers[0].mlp.experts, torch.randn(32)
    with torch.no_grad():
        out = experts(x[None], torch.tensor([[expert]]), torch.ones(1, 1))[0]
    held = _of_expert(saved("gpt_oss"), expert)
    gate, up = (held[role] @ x + held[f"{role}.bias"] for role in ("gate_proj", "up_proj"))
    gate, up = gate.clamp(max=experts.limit), up.clamp(-experts.limit, experts.limit)
    hidden = (up + 1) * gate * torch.sigmoid(gate * experts.alpha)
    torch.testing.assert_close(held["down_proj"] @ hidden + held["down_proj.bias"], out, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("role", ["up_proj", "down_proj", "o_proj"])
def test_conv1d_kernels_of_gpt2_are_turned(layer: int, role: str, saved: Save, model: Build) -> None:
    names = {"up_proj": "mlp.c_fc", "down_proj": "mlp.c_proj", "o_proj": "attn.c_proj"}
    module = model("gpt2").get_submodule(f"transformer.h.{layer}.{names[role]}")
    held = weights(saved("gpt2"), f"layers.{layer}")
    x = torch.randn(held[role].shape[1])
    with torch.no_grad():
        torch.testing.assert_close(projected(held, role, x), module(x[None])[0], rtol=1e-5, atol=1e-6)


def test_what_torch_packs_for_multihead_attention() -> None:
    attention, x = torch.nn.MultiheadAttention(32, 4), torch.randn(32)
    weight, bias = attention.in_proj_weight.detach(), torch.randn(96)
    parts = Naming({}).layout("vision.attn.in_proj_weight", tuple(weight.shape)).parts
    assert Naming({}).layout("vision.attn.in_proj_bias", tuple(bias.shape)).parts == parts
    projections = vars(torch.nn.functional)["_in_projection_packed"](x, x, x, weight, bias)
    assert [part.role for part in parts] == ["q_proj", "k_proj", "v_proj"]
    for part, projection in zip(parts, projections, strict=True):
        rows = slice(part.start, part.stop)
        torch.testing.assert_close(weight[rows] @ x + bias[rows], projection)


def _of_expert(folder: Path, expert: int) -> dict[str, Tensor]:
    checkpoint = open_checkpoint(folder)
    tensors = pair_checkpoints(checkpoint, checkpoint).subjects["layers.0"]
    return {t.place.role: t.base.read()[expert] for t in tensors if t.stacked}
