"""How much of a vector lies in the span of samples, from their inner products alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

RELATIVE_TOLERANCE = 1e-12
"""Below this share of the largest eigenvalue a direction of the normalised samples is rounding: a sample that
differs from the others' span by less than a millionth of its length, where float32 keeps seven digits."""


@dataclass(frozen=True, slots=True)
class Projection:
    """The projection `G' c` of a vector on a span of `rank` directions of the samples `G`, by its coefficients."""

    coefficients: Float[Tensor, "s"]
    rank: int

    def share(self, inner: Float[Tensor, "s"], square: float) -> float:
        """norm(P d)^2 / norm(d)^2 with `inner = G d`, or one part's contribution to it with that part's `inner`."""
        return float(self.coefficients @ inner) / square


def onto_span(gram: Float[Tensor, "s s"], inner: Float[Tensor, "s"]) -> Projection:
    """Projection on all that the samples span; `gram = G G'`, `inner = G d`.

    Samples are normalised first, so that a short one counts as a direction like any other. Zero samples span
    nothing. Equals `numpy.linalg.lstsq(G.T, d)` up to the rounding that squaring the condition costs.
    """
    lengths = gram.diagonal().clamp(min=0.0).sqrt()
    scale = torch.where(lengths > 0, 1.0 / lengths, torch.zeros_like(lengths))
    return _projected(gram * scale[:, None] * scale, inner * scale, scale, count=len(gram))


def onto_leading(gram: Float[Tensor, "s s"], inner: Float[Tensor, "s"], count: int) -> Projection:
    """Projection on the `count` leading right singular vectors of the samples as they are."""
    return _projected(gram, inner, torch.ones_like(inner), count=count)


def leading_energy(gram: Float[Tensor, "s s"], count: int) -> float:
    """Share of the samples' squared norm in their `count` leading directions: sum_{i<=count} s_i^2 / sum s_i^2."""
    energies = torch.linalg.eigvalsh(gram).clamp(min=0.0)
    return float(energies[-count:].sum() / energies.sum())


def _projected(
    gram: Float[Tensor, "s s"], inner: Float[Tensor, "s"], scale: Float[Tensor, "s"], *, count: int
) -> Projection:
    values, vectors = torch.linalg.eigh(gram)
    kept = values > RELATIVE_TOLERANCE * values[-1].clamp(min=0.0)
    kept[: len(values) - count] = False
    along = torch.where(kept, (vectors.mT @ inner) / values.where(kept, torch.ones_like(values)), 0.0)
    return Projection(scale * (vectors @ along), int(kept.sum()))
