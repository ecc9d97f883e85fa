"""What is known of a large base matrix before any tuned side is seen: a cache may keep it for the next run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version

import torch
from jaxtyping import Float32, Float64, Int64, Shaped, UInt8
from torch import Tensor

from ckptaudit.linalg.census import Census, census, census_among, sample
from ckptaudit.linalg.differences import square_sum
from ckptaudit.linalg.entry_sets import largest, members, smallest
from ckptaudit.linalg.gram import SingularValues, gram, tall
from ckptaudit.linalg.leading import BAND, NARROW_BAND, Leading, Spectrum, leading, spectrum, truncated
from ckptaudit.linalg.products import multiply
from ckptaudit.linalg.symmetric import from_triangle, triangle
from ckptaudit.metrics.weight_batch import ALPHA

FACTS_VERSION = f"{version('ckptaudit')}/9"
"""Part of every key in the cache. Count up whenever what is kept of a base, or how it is computed, changes: a fact
of an earlier version must not answer for one of this."""

ORDINARY = (1e-20, 1e20)
"""Sizes within which float32 products neither overflow nor lose their last digits; the rest is for float64."""

ITERATIVE_SIDE = 1024
"""From this short side on iterative methods find single numbers sooner than eigenvalues of Gram matrices do."""

Tensors = Mapping[str, Tensor]
NOTHING = {"s": torch.empty(0, dtype=torch.float64)}
CachedLookup = Callable[[str, Callable[[], Tensors]], Tensors]
"""(what is wanted of a stored matrix, how to make it) to the tensors wanted; a cache may answer."""


def uncached(definition: str, make: Callable[[], Tensors]) -> Tensors:
    """The lookup without a cache: everything is made."""
    return make()


@dataclass(frozen=True)
class BaseFacts:
    """Leading triplets or all singular values, two sets of entries, norm_F, and counts by binade.

    The counts are of a sample of the weights: of all of them, and of those in the principal set.
    """

    top: Leading | None
    spectrum: Spectrum | None
    principal: UInt8[Tensor, "_"]
    low_magnitude: UInt8[Tensor, "_"]
    norm: float
    census: Census
    principal_binades: Int64[Tensor, "binades"]


def leading_facts(stored: Shaped[Tensor, "m n"], lookup: CachedLookup, *, k: int, rank: int) -> BaseFacts | None:
    """Leading triplets of both sides, for the bounds; None where they are not certified."""
    kept = _looked_up("leading", lambda: _make_leading(stored, k, rank), stored, lookup, k, rank)
    if kept is None:
        return None
    residual, skew, following, error = kept["certificate"].tolist()
    s, right = kept["s"], kept["right"]
    top = Leading(s[: right.shape[1]], kept["left"], right, residual, skew, following, SingularValues(s, error))
    return _facts(top, None, kept, stored)


def spectrum_facts(stored: Shaped[Tensor, "m n"], lookup: CachedLookup, *, k: int, rank: int) -> BaseFacts | None:
    """All singular values, and what the tuned ones are found from; None where they are not certified."""
    extent = "spectrum" if stored.device.type == "cpu" else "spectrum without Gram matrix"
    kept = _looked_up(extent, lambda: _make_spectrum(stored, k, rank), stored, lookup, k, rank)
    if kept is None:
        return None
    found = _kept_spectrum(kept) if "gram" in kept else _completed(stored, kept, k)
    return None if found is None else _facts(None, found, kept, stored)


def _kept_spectrum(kept: Tensors) -> Spectrum:
    return Spectrum(kept["s"], kept["short"], from_triangle(kept["gram"], len(kept["s"])))


def _completed(stored: Shaped[Tensor, "m n"], kept: Tensors, k: int) -> Spectrum | None:
    """With its Gram matrix, which a device multiplies sooner than a file of it is read.

    The tuned side is told from that very matrix, to the last bit: where another card or library rounds otherwise,
    the spectrum is found again.
    """
    product = gram(tall(stored))
    if torch.equal(_fingerprint(product), kept["gram_sum"]):
        return Spectrum(kept["s"], kept["short"], product)
    return spectrum(stored, min(k + 1, *stored.shape))


def _fingerprint(matrix: Float64[Tensor, "n n"]) -> Int64[Tensor, ""]:
    """The sum of all entries' bits, modulo 2^64: whether two matrices are the same but for a chance."""
    return matrix.view(torch.int64).sum()


def _facts(top: Leading | None, found: Spectrum | None, kept: Tensors, stored: Shaped[Tensor, "m n"]) -> BaseFacts:
    every, principal = kept["binades"].cpu()
    known = Census(every, bool(kept["on_grid"]), sampled=sample(*stored.shape).step > 1)
    return BaseFacts(top, found, kept["principal"], kept["low_magnitude"], float(kept["norm"]), known, principal)


def within(size: float, limits: tuple[float, float]) -> bool:
    """Whether a size lies between two others; NaN does not."""
    return limits[0] < size < limits[1]


def low_magnitude(stored: Shaped[Tensor, "m n"]) -> UInt8[Tensor, "_"]:
    """The set of the floor(alpha m n) entries of least magnitude."""
    return smallest(stored.flatten().abs(), int(ALPHA * stored.numel()))


def norm(stored: Shaped[Tensor, "m n"]) -> float:
    """norm_F in float64."""
    return math.sqrt(square_sum(stored))


def _looked_up(
    extent: str, make: Callable[[], Tensors], stored: Shaped[Tensor, "m n"], lookup: CachedLookup, k: int, rank: int
) -> Tensors | None:
    kept = lookup(f"{extent}/{FACTS_VERSION} k={k} rank={rank} alpha={ALPHA}", make)
    return {name: tensor.to(stored.device) for name, tensor in kept.items()} if len(kept["s"]) else None


def _make_leading(stored: Shaped[Tensor, "m n"], k: int, rank: int) -> Tensors:
    size = norm(stored)
    if not within(size, ORDINARY):
        return NOTHING  # before anything is squared in float32
    top = leading(stored, k, band=BAND if min(stored.shape) >= ITERATIVE_SIDE else NARROW_BAND)
    if top is None or not within(float(top.s[0]), ORDINARY):
        return NOTHING
    return {
        "s": top.every.s,
        "left": top.left,
        "right": top.right,
        "certificate": torch.tensor([top.residual, top.skew, top.following, top.every.error], dtype=torch.float64),
        **_make_masks(stored, size, multiply(top.left[:, :rank] * top.s[:rank].float(), top.right[:, :rank].mT)),
    }


def _make_spectrum(stored: Shaped[Tensor, "m n"], k: int, rank: int) -> Tensors:
    size = norm(stored)
    if not within(size, ORDINARY):
        return NOTHING
    on_cpu = stored.device.type == "cpu"
    found = spectrum(stored, min(k + 1, *stored.shape))
    if found is None or not within(float(found.s[0]), ORDINARY):
        return NOTHING
    return {
        "s": found.s,
        "short": found.short,
        **({"gram": triangle(found.gram)} if on_cpu else {"gram_sum": _fingerprint(found.gram)}),
        **_make_masks(stored, size, truncated(stored, found.short[:, :rank].float())),
    }


def _make_masks(
    stored: Shaped[Tensor, "m n"], size: float, reconstructed: Float32[Tensor, "m n"]
) -> dict[str, Tensor]:
    principal = largest(reconstructed.abs_().flatten(), int(ALPHA * stored.numel()))
    seen = census(stored)
    places = torch.arange(0, stored.numel(), sample(*stored.shape).step, device=stored.device)
    return {
        "norm": torch.tensor(size, dtype=torch.float64),
        "binades": torch.stack([seen.every, census_among(stored, members(principal, places))]),
        "on_grid": torch.tensor(seen.on_grid),
        "principal": principal,
        "low_magnitude": low_magnitude(stored),
    }
