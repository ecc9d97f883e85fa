"""A generated pair of checkpoints: the shapes of a Qwen2.5, changed as training changes them.

Real weights would have to be downloaded; what the time depends on is here: shapes, dtype, spectra, the kind of
update and what bf16 rounding leaves of it.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.family import BENCH, FAMILY, LARGE_FAMILY, LARGER_FAMILY, Bases, Kind, Shapes, updated

RECIPE = "3"
"""Changes whenever the files would, so that none made by an earlier recipe is taken for this one's."""

Side = dict[str, Tensor]


def pair_of(layers: int, folder: Path, kind: Kind = BENCH, device: str = "cpu") -> tuple[Path, Path]:
    """Base and tuned with that many layers, made below `folder` unless they lie there already.

    Another device draws other numbers, and needs room for both sides.
    """
    words = re.sub(r"[^a-z0-9.]+", "-", f"{kind.shapes.name}-{kind.name.lower()}")
    drawn = "" if device == "cpu" else f"-{torch.device(device).type}"
    home = folder / f"{words}-{RECIPE}-{layers}-layers{drawn}"
    if not home.is_dir():
        aside = home.with_name(f"{home.name}.part")
        shutil.rmtree(aside, ignore_errors=True)
        for name, side in zip(("base", "tuned"), _sides(layers, kind, device), strict=True):
            (aside / name).mkdir(parents=True)
            save_file(side, aside / name / "model.safetensors", metadata={"format": "pt"})
            (aside / name / "config.json").write_text(json.dumps(_config(layers, kind), indent=2))
        aside.rename(home)
    return home / "base", home / "tuned"


def _sides(layers: int, kind: Kind, device: str) -> tuple[Side, Side]:
    random, shapes = torch.Generator(device).manual_seed(0), kind.shapes
    base = {name: weight.to(kind.stored) for name, weight in _base(layers, kind, shapes, random)}
    return base, {name: updated(weight, kind.update, random) for name, weight in base.items()}


def _base(layers: int, kind: Kind, shapes: Shapes, random: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    bases = Bases(random)
    yield "model.embed_tokens.weight", bases.matrix(kind.base, (shapes.vocabulary, shapes.hidden))
    yield "model.norm.weight", _around(1.0, shapes.hidden, random)
    if not kind.tied:
        yield "lm_head.weight", bases.matrix(kind.base, (shapes.vocabulary, shapes.hidden))
    for layer in range(layers):
        for name, shape in shapes.matrices.items():
            yield f"model.layers.{layer}.{name}.weight", bases.matrix(kind.base, shape)
        for name, size in _vectors(shapes).items():
            yield f"model.layers.{layer}.{name}", _around(float(not name.endswith("bias")), size, random)


def _vectors(shapes: Shapes) -> dict[str, int]:
    """Biases and norms of a layer: Qwen2 has the former, mixtures have none."""
    sizes = {f"{name}_layernorm.weight": shapes.hidden for name in ("input", "post_attention")}
    if shapes.latent:
        ranks = {"q_a": shapes.latent.query, "kv_a": shapes.latent.value}
        return sizes | {f"self_attn.{name}_layernorm.weight": rank for name, rank in ranks.items()}
    if shapes.experts:
        head = shapes.hidden // shapes.heads
        return sizes | {f"self_attn.{name}_norm.weight": head for name in ("q", "k")}
    rows = {name: shapes.matrices[f"self_attn.{name}_proj"][0] for name in ("q", "k", "v")}
    return {f"self_attn.{name}_proj.bias": size for name, size in rows.items()} | sizes


def _around(value: float, size: int, random: torch.Generator) -> Tensor:
    return value + 0.1 * torch.randn(size, generator=random, device=random.device)


def _config(layers: int, kind: Kind) -> dict[str, object]:
    shapes = kind.shapes
    return _family(shapes) | {
        "hidden_size": shapes.hidden,
        "intermediate_size": shapes.intermediate,
        "num_attention_heads": shapes.heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": shapes.kv_heads,
        "tie_word_embeddings": kind.tied,
        "torch_dtype": str(kind.stored).removeprefix("torch."),
        "vocab_size": shapes.vocabulary,
    }


def _family(shapes: Shapes) -> dict[str, object]:
    if shapes.latent:
        latent = shapes.latent
        return {
            "architectures": ["DeepseekV3ForCausalLM"],
            "model_type": "deepseek_v3",
            "moe_intermediate_size": shapes.intermediate,
            "n_routed_experts": shapes.experts,
            "n_shared_experts": 1,
            "first_k_dense_replace": 0,
            "q_lora_rank": latent.query,
            "kv_lora_rank": latent.value,
            "qk_nope_head_dim": latent.head,
            "qk_rope_head_dim": latent.rotary,
            "v_head_dim": latent.value_head,
        }
    if shapes.experts:
        return {
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "head_dim": shapes.hidden // shapes.heads,
            "moe_intermediate_size": shapes.intermediate,
            "num_experts": shapes.experts,
            "num_experts_per_tok": 8,
        }
    return {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}


if __name__ == "__main__":
    named = {f"{kind.shapes.name}: {kind.name}": kind for kind in (*FAMILY, *LARGE_FAMILY, *LARGER_FAMILY)}
    wanted = named[sys.argv[3]] if len(sys.argv) > 3 else BENCH
    print(*pair_of(int(sys.argv[1]), Path(sys.argv[2]), wanted), sep="\n")
