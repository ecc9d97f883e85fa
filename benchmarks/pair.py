"""A generated pair of checkpoints: the shapes of a Qwen2.5, changed as training changes them.

Real weights would have to be downloaded; what the time depends on is here: shapes, dtype, spectra, the kind of
update and what bf16 rounding leaves of it.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.family import BENCH, FAMILY, LARGE_FAMILY, Bases, Kind, Shapes, updated

RECIPE = "2"
"""Changes whenever the files would, so that none made by an earlier recipe is taken for this one's."""

Side = dict[str, Tensor]


def pair_of(layers: int, folder: Path, kind: Kind = BENCH) -> tuple[Path, Path]:
    """Base and tuned with that many layers, made below `folder` unless they lie there already."""
    words = re.sub(r"[^a-z0-9]+", "-", kind.name.lower())
    home = folder / f"{kind.shapes.name}-{words}-{RECIPE}-{layers}-layers"
    if not home.is_dir():
        aside = home.with_name(f"{home.name}.part")
        shutil.rmtree(aside, ignore_errors=True)
        for name, side in zip(("base", "tuned"), _sides(layers, kind), strict=True):
            (aside / name).mkdir(parents=True)
            save_file(side, aside / name / "model.safetensors", metadata={"format": "pt"})
            (aside / name / "config.json").write_text(json.dumps(_config(layers, kind.shapes), indent=2))
        aside.rename(home)
    return home / "base", home / "tuned"


def _sides(layers: int, kind: Kind) -> tuple[Side, Side]:
    random, shapes = torch.Generator().manual_seed(0), kind.shapes
    bases = Bases(random)
    base: Side = {"model.embed_tokens.weight": bases.matrix(kind.base, (shapes.vocabulary, shapes.hidden))}
    base["model.norm.weight"] = _around(1.0, shapes.hidden, random)
    for layer in range(layers):
        for name, shape in shapes.matrices.items():
            base[f"model.layers.{layer}.{name}.weight"] = bases.matrix(kind.base, shape)
        for name in ("q", "k", "v"):
            rows = shapes.matrices[f"self_attn.{name}_proj"][0]
            base[f"model.layers.{layer}.self_attn.{name}_proj.bias"] = _around(0.0, rows, random)
        for name in ("input", "post_attention"):
            base[f"model.layers.{layer}.{name}_layernorm.weight"] = _around(1.0, shapes.hidden, random)
    return base, {name: updated(weight, kind.update, random) for name, weight in base.items()}


def _around(value: float, size: int, random: torch.Generator) -> Tensor:
    return (value + 0.1 * torch.randn(size, generator=random)).bfloat16()


def _config(layers: int, shapes: Shapes) -> dict[str, object]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": shapes.hidden,
        "intermediate_size": shapes.intermediate,
        "num_attention_heads": shapes.heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": shapes.kv_heads,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "vocab_size": shapes.vocabulary,
    }


if __name__ == "__main__":
    named = {f"{kind.shapes.name}: {kind.name}": kind for kind in (*FAMILY, *LARGE_FAMILY)}
    wanted = named[sys.argv[3]] if len(sys.argv) > 3 else BENCH
    print(*pair_of(int(sys.argv[1]), Path(sys.argv[2]), wanted), sep="\n")
