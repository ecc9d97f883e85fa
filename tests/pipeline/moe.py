"""A small mixture of experts: many layers, many experts, tiny matrices. What counts is how many there are."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

HIDDEN, INNER = 16, 8


def write_pair(folder: Path, *, layers: int = 61, experts: int = 64, dense: int = 3) -> tuple[Path, Path]:
    """A base and a tuned side under `folder`, an update of a thousandth apart, with a Qwen3 mixture's names."""
    random = torch.Generator().manual_seed(0)
    base = {"model.embed_tokens.weight": _matrix(32, HIDDEN, random), "model.norm.weight": torch.ones(HIDDEN)}
    for layer in range(layers):
        name = f"model.layers.{layer}."
        base |= {f"{name}self_attn.{part}_proj.weight": _matrix(HIDDEN, HIDDEN, random) for part in "qkvo"}
        base[f"{name}input_layernorm.weight"] = torch.ones(HIDDEN)
        base |= _gated(f"{name}mlp.", random) if layer < dense else _mixture(f"{name}mlp.", experts, random)
    tuned = {k: v * (1 + 1e-3 * torch.randn(v.shape, generator=random)) for k, v in base.items()}
    for side, tensors in (("base", base), ("tuned", tuned)):
        (folder / side).mkdir(parents=True)
        save_file({k: v.bfloat16() for k, v in tensors.items()}, folder / side / "model.safetensors")
        config = {"model_type": "qwen3_moe", "num_hidden_layers": layers, "tie_word_embeddings": True}
        (folder / side / "config.json").write_text(json.dumps(config))
    return folder / "base", folder / "tuned"


def _mixture(name: str, experts: int, random: torch.Generator) -> dict[str, torch.Tensor]:
    found = {f"{name}gate.weight": _matrix(experts, HIDDEN, random)}
    for expert in range(experts):
        found |= _gated(f"{name}experts.{expert}.", random)
    return found


def _gated(name: str, random: torch.Generator) -> dict[str, torch.Tensor]:
    shapes = {"gate": (INNER, HIDDEN), "up": (INNER, HIDDEN), "down": (HIDDEN, INNER)}
    return {f"{name}{part}_proj.weight": _matrix(*shape, random) for part, shape in shapes.items()}


def _matrix(m: int, n: int, random: torch.Generator) -> torch.Tensor:
    return torch.randn((m, n), generator=random)
