"""A generated pair of checkpoints: the shapes of Qwen2.5-0.5B, changed as reinforcement learning changes them.

Real weights would have to be downloaded; what the time depends on is here: shapes, dtype, spectra that fall
slowly, an update that is tiny, mostly lost to bf16 rounding, and of low stable rank.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, VOCABULARY = 896, 4864, 14, 2, 8_000
KV = HIDDEN // HEADS * KV_HEADS
MATRICES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KV, HIDDEN),
    "self_attn.v_proj": (KV, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
    "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}
EMBEDDING = (VOCABULARY, HIDDEN)
DECAY = 0.5
"""Singular values fall as i^-0.5 on the whole: the slow power law that trained transformers show."""

STEP = 6.2e-4
"""Relative norm of the update before rounding; after it about 4e-4 is left."""

DIRECTIONS = 8
"""Rank of the part of the update that has structure; the rest is noise."""

RECIPE = "1"
"""Changes whenever the files would, so that none made by an earlier recipe is taken for this one's."""

Side = dict[str, Tensor]


def pair_of(layers: int, folder: Path) -> tuple[Path, Path]:
    """Base and tuned with that many layers, made below `folder` unless they lie there already."""
    home = folder / f"qwen2.5-0.5b-shapes-{RECIPE}-{layers}-layers"
    if not home.is_dir():
        aside = home.with_suffix(".part")
        shutil.rmtree(aside, ignore_errors=True)
        for name, side in zip(("base", "tuned"), _sides(layers), strict=True):
            (aside / name).mkdir(parents=True)
            save_file(side, aside / name / "model.safetensors", metadata={"format": "pt"})
            (aside / name / "config.json").write_text(json.dumps(_config(layers), indent=2))
        aside.rename(home)
    return home / "base", home / "tuned"


def _sides(layers: int) -> tuple[Side, Side]:
    random = torch.Generator().manual_seed(0)
    spread = _Spread(random)
    base: Side = {"model.embed_tokens.weight": spread.heavy_tailed(EMBEDDING)}
    base["model.norm.weight"] = _around(1.0, HIDDEN, random)
    for layer in range(layers):
        for name, shape in MATRICES.items():
            base[f"model.layers.{layer}.{name}.weight"] = spread.heavy_tailed(shape)
        for name in ("q", "k", "v"):
            rows = MATRICES[f"self_attn.{name}_proj"][0]
            base[f"model.layers.{layer}.self_attn.{name}_proj.bias"] = _around(0.0, rows, random)
        for name in ("input", "post_attention"):
            base[f"model.layers.{layer}.{name}_layernorm.weight"] = _around(1.0, HIDDEN, random)
    return base, {name: _updated(weight, random) for name, weight in base.items()}


class _Spread:
    """Matrices with a given spectrum from few orthogonal bases: shuffled rows and signs keep them orthogonal."""

    def __init__(self, random: torch.Generator) -> None:
        self.random = random
        self.bases: dict[tuple[int, int], Tensor] = {}

    def heavy_tailed(self, shape: tuple[int, int]) -> Tensor:
        r = min(shape)
        s = self._spectrum(r)
        left, right = (self._basis(size, r) for size in shape)
        return ((left * (s / s.norm() * (shape[0] * shape[1]) ** 0.5 * 0.02)) @ right.mT).bfloat16()

    def _spectrum(self, r: int) -> Tensor:
        # Gaps as unequal as those of a matrix that nobody planned (Wigner's surmise, of mean 1): evenly spaced
        # singular values would make subspaces easier to follow than they are.
        smooth = torch.arange(1, r + 2, dtype=torch.float64).pow(-DECAY)
        surmise = (-4 / torch.pi * torch.rand(r, generator=self.random, dtype=torch.float64).log()).sqrt()
        gaps = (smooth[:-1] - smooth[1:]) * surmise
        return (gaps.flip(0).cumsum(0).flip(0) + smooth[-1]).float()

    def _basis(self, size: int, r: int) -> Tensor:
        if (size, r) not in self.bases:
            self.bases[size, r] = torch.linalg.qr(torch.randn(size, r, generator=self.random)).Q
        rows = torch.randperm(size, generator=self.random)
        signs = torch.randint(0, 2, (size, 1), generator=self.random) * 2 - 1
        return self.bases[size, r][rows] * signs


def _around(value: float, size: int, random: torch.Generator) -> Tensor:
    return (value + 0.1 * torch.randn(size, generator=random)).bfloat16()


def _updated(weight: Tensor, random: torch.Generator) -> Tensor:
    """A step of low rank and some noise, added in float32 and rounded to bf16 as a trainer saves it."""
    wide = weight.float()
    step = torch.randn(weight.shape, generator=random)
    if weight.dim() == 2:
        left, right = (torch.randn(size, DIRECTIONS, generator=random) for size in weight.shape)
        step = left @ right.mT / DIRECTIONS**0.5 + 0.5 * step
    return (wide + STEP * wide.norm() / step.norm() * step).bfloat16()


def _config(layers: int) -> dict[str, object]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_attention_heads": HEADS,
        "num_hidden_layers": layers,
        "num_key_value_heads": KV_HEADS,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "vocab_size": VOCABULARY,
    }


if __name__ == "__main__":
    print(*pair_of(int(sys.argv[1]), Path(sys.argv[2])), sep="\n")
