"""The pairs that are timed: spectra of bases, kinds of updates, shapes. No speed of one pair speaks for all."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

DEVIATION = 0.02
"""Root mean square of the base's entries."""

DECAY = 0.5
"""Singular values fall as i^-0.5: the slow power law that trained transformers show."""

STEP = 6.2e-4
"""Relative norm of the update before rounding; after it about 4e-4 is left."""

DIRECTIONS = 8
"""Rank of the part of the update that has structure; the rest is noise."""

Shape = tuple[int, int]


@dataclass(frozen=True)
class Shapes:
    """Sizes of a model's matrices. With `experts`, each has an MLP of its own, of the intermediate size."""

    name: str
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    experts: int = 0
    latent: Latent | None = None

    @property
    def matrices(self) -> dict[str, Shape]:
        """A layer's matrices, by the names of Qwen2, of Qwen3's mixtures, or of DeepSeek-V3."""
        attention = self._projections if self.latent is None else self.latent.projections(self.hidden, self.heads)
        return {**attention, **self._mlps}

    @property
    def _projections(self) -> dict[str, Shape]:
        kv = self.hidden // self.heads * self.kv_heads
        return {
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.k_proj": (kv, self.hidden),
            "self_attn.v_proj": (kv, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
        }

    @property
    def _mlps(self) -> dict[str, Shape]:
        names = [f"mlp.experts.{i}" for i in range(self.experts)] or ["mlp"]
        names += ["mlp.shared_experts"] * (self.latent is not None)
        router = {"mlp.gate": (self.experts, self.hidden)} if self.experts else {}
        return router | {
            f"{name}.{part}_proj": (self.hidden, self.intermediate)
            if part == "down"
            else (self.intermediate, self.hidden)
            for name in names
            for part in ("gate", "up", "down")
        }


@dataclass(frozen=True)
class Latent:
    """Ranks of a latent attention, and sizes of its heads: without position, with it, and of the values."""

    query: int
    value: int
    head: int
    rotary: int
    value_head: int

    def projections(self, hidden: int, heads: int) -> dict[str, Shape]:
        """The five projections."""
        return {
            "self_attn.q_a_proj": (self.query, hidden),
            "self_attn.q_b_proj": (heads * (self.head + self.rotary), self.query),
            "self_attn.kv_a_proj_with_mqa": (self.value + self.rotary, hidden),
            "self_attn.kv_b_proj": (heads * (self.head + self.value_head), self.value),
            "self_attn.o_proj": (hidden, heads * self.value_head),
        }


SMALL = Shapes("qwen2.5-0.5b", 896, 4864, 14, 2, 8_000)
EXPERTS = Shapes("mixture", 512, 256, 8, 2, 8_000, experts=64)
LARGE = Shapes("qwen2.5-7b", 3584, 18944, 28, 4, 1_024)
LARGER = Shapes("llama-3-70b", 8192, 28672, 64, 8, 1_024)
LATENT = Shapes("deepseek-v3, 8 of 256 experts", 7168, 2048, 128, 128, 1_024, 8, Latent(1536, 512, 128, 64, 128))


@dataclass(frozen=True)
class Kind:
    """One pair of the family."""

    base: str
    update: str
    shapes: Shapes = SMALL
    stored: torch.dtype = torch.bfloat16
    tied: bool = True

    @property
    def name(self) -> str:
        """As it stands in tables and in the names of folders."""
        stored = "" if self.stored == torch.bfloat16 else ", stored in float32"
        shapes = "" if self.shapes in (SMALL, LARGE) else f", {self.shapes.name}"
        return f"{self.base}, {self.update}{stored}{'' if self.tied else ', untied head'}{shapes}"


class Bases:
    """Matrices with a given spectrum from few orthogonal bases: shuffled rows and signs keep them orthogonal."""

    def __init__(self, random: torch.Generator) -> None:
        self.random = random
        self._bases: dict[Shape, Tensor] = {}

    def matrix(self, kind: str, shape: Shape) -> Tensor:
        """A matrix in float32 with a spectrum of this kind."""
        s = SPECTRA[kind](min(shape), self.random)
        s = s[s > 0]
        left, right = (self._basis(size, len(s)) for size in shape)
        made = (left * (s / s.norm() * (shape[0] * shape[1]) ** 0.5)) @ right.mT
        if kind == "noise and spikes":
            made = 0.3 * made + self._noise(*shape)
        scaled: Tensor = made * DEVIATION
        return scaled

    def _basis(self, size: int, r: int) -> Tensor:
        if (size, r) not in self._bases:
            self._bases[size, r] = torch.linalg.qr(self._noise(size, r)).Q
        rows = torch.randperm(size, generator=self.random, device=self.random.device)
        signs = torch.randint(0, 2, (size, 1), generator=self.random, device=self.random.device) * 2 - 1
        return self._bases[size, r][rows] * signs

    def _noise(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.random, device=self.random.device)


def power_law(r: int, random: torch.Generator) -> Tensor:
    """Falling as i^-DECAY, with gaps as uneven as those of random matrices (Wigner's surmise, of mean 1).

    Evenly spaced singular values would make subspaces easier to find than they are.
    """
    smooth = torch.arange(1, r + 2, dtype=torch.float64, device=random.device).pow(-DECAY)
    surmise = (
        -4 / torch.pi * torch.rand(r, generator=random, dtype=torch.float64, device=random.device).log()
    ).sqrt()
    gaps = (smooth[:-1] - smooth[1:]) * surmise
    return (gaps.flip(0).cumsum(0).flip(0) + smooth[-1]).float()


def spikes(r: int, random: torch.Generator) -> Tensor:
    """The part of rank r / 8 that stands in noise, falling as i^-0.7."""
    at = torch.arange(r, device=random.device)
    return (at + 1).float().pow(-0.7) * (at < max(1, r // 8))


def flat(r: int, random: torch.Generator) -> Tensor:
    """All within a twentieth of each other."""
    return 1 + 0.05 * torch.rand(r, generator=random, device=random.device).sort(descending=True).values


def repeated(r: int, random: torch.Generator) -> Tensor:
    """Sixteen values, each repeated exactly, up to the rounding of the entries."""
    return (16 - (torch.arange(r, device=random.device) * 16).div(r, rounding_mode="floor")).float() / 16


SPECTRA: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "power law": power_law,
    "noise and spikes": spikes,
    "flat": flat,
    "repeated values": repeated,
}


def low_rank(shape: torch.Size, random: torch.Generator, rank: int = DIRECTIONS) -> Tensor:
    """A matrix of entries of deviation 1 and of a low rank; of a vector, noise."""
    if len(shape) < 2:
        return torch.randn(shape, generator=random, device=random.device)
    left, right = (torch.randn(size, rank, generator=random, device=random.device) for size in shape)
    product: Tensor = left @ right.mT
    return product / math.sqrt(rank)


def _noise(weight: Tensor, random: torch.Generator) -> Tensor:
    return torch.randn(weight.shape, generator=random, device=random.device)


def _with_noise(weight: Tensor, random: torch.Generator) -> Tensor:
    return low_rank(weight.shape, random) + 0.5 * _noise(weight, random) * (weight.dim() > 1)


def _sparse(share: float) -> Callable[[Tensor, torch.Generator], Tensor]:
    return lambda weight, random: (
        _noise(weight, random) * (torch.rand(weight.shape, generator=random, device=random.device) < share)
    )


def _merged(weight: Tensor, random: torch.Generator) -> Tensor:
    return low_rank(weight.shape, random, 16) * (weight.dim() > 1)


UPDATES: dict[str, tuple[float, Callable[[Tensor, torch.Generator], Tensor]]] = {
    "rank 8 and noise": (STEP, _with_noise),
    "noise": (STEP, _noise),
    "sparse, 64 % changed": (4 * STEP, _sparse(0.9)),
    "sparse, 1 % changed": (STEP, _sparse(0.012)),
    "LoRA merged": (STEP, _merged),
    "SFT-like": (30 * STEP, _with_noise),
}
"""Relative norms before rounding, and steps; all are added in float32 and rounded to bf16, as trainers do."""


def updated(weight: Tensor, kind: str, random: torch.Generator) -> Tensor:
    """The weight after an update of this kind, in its own type."""
    size, make = UPDATES[kind]
    wide, step = weight.float(), make(weight, random)
    norm = float(step.norm())
    return (wide + size * wide.norm() / norm * step).to(weight.dtype) if norm else weight.clone()


BENCH = Kind("power law", "rank 8 and noise")
FAMILY = (
    BENCH,
    Kind("power law", "noise"),
    Kind("power law", "sparse, 64 % changed"),
    Kind("power law", "sparse, 1 % changed"),
    Kind("power law", "LoRA merged"),
    Kind("noise and spikes", "noise"),
    Kind("flat", "rank 8 and noise"),
    Kind("repeated values", "rank 8 and noise"),
    Kind("power law", "rank 8 and noise", stored=torch.float32),
    Kind("power law", "rank 8 and noise", tied=False),
    Kind("power law", "rank 8 and noise", EXPERTS),
    Kind("power law", "SFT-like"),
)
LARGE_FAMILY = (
    Kind("power law", "rank 8 and noise", LARGE),
    Kind("power law", "sparse, 1 % changed", LARGE),
    Kind("power law", "SFT-like", LARGE),
)
LARGER_FAMILY = (Kind("noise and spikes", "noise", LATENT), Kind("noise and spikes", "noise", LARGER))
"""Hours of decompositions in float64 for whoever compares: timed in gate mode alone."""
