"""Why a merged weight is wrong: the mistakes of a merge that leave a trace, each tried against the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from math import sqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ckptaudit.findings import Finding
from ckptaudit.linalg.rounding import Interval
from ckptaudit.parity.merged_weights import MergedWeights, share_of
from ckptaudit.parity.merges import Merge

if TYPE_CHECKING:
    from ckptaudit.checkpoints.tensors import Factors

NEAR = 0.02
"""How near a fitted factor lies to the one it is named for, relative to it."""

BLUR = 0.1
"""What is left of a change beside a multiple of the update, relative to it, where several roundings blur it."""

LOW, HIGH = 0.9, 1.1
"""The share of the adapter's update at which a weight holds the adapter, whatever else it holds."""

MOST = 64
"""How many other modules of the adapter are tried."""


def cause_of(merge: Merge, weights: MergedWeights, *, on_other_base: bool) -> Finding:
    """The finding about a wrong weight, with the first cause that explains its numbers."""
    name = weights.tensor.name
    if not bool(weights.stored.isfinite().all()):
        return Finding(name, "not finite", "the merged weight holds NaN or infinity; merge again")
    for cause in (_not_applied, _scaled, _transposed, _partial_rank, _sum_without_base):
        if said := cause(weights):
            return Finding(name, *said)
    return Finding(name, *_otherwise(merge, weights, on_other_base=on_other_base))


Cause = tuple[str, str]


def _not_applied(weights: MergedWeights) -> Cause | None:
    if bool((weights.moved == 0).all()):
        return "adapter not applied", "it is the base's weight; merge the adapter before saving"
    return None


def _scaled(weights: MergedWeights) -> Cause | None:
    found = weights.factors(weights.update)
    if found.low > found.high:
        return None
    fitted = share_of(weights.moved, weights.update)
    factor = min(max(fitted, found.low), found.high)
    return _named_factor(weights, factor, found)


def _named_factor(weights: MergedWeights, factor: float, found: Interval) -> Cause:
    """The mistake that multiplies the update by this factor, or by any in the interval."""
    for named, fault, mend in _known_factors(weights):
        if named in found or abs(factor / named - 1) <= NEAR:
            return fault, f"holds {named:.4g} times the update; {mend}"
    if 1.0 in found or abs(factor - 1) <= NEAR:
        return "rounded another way", "it holds the update, and rounding once does not explain it; merge in float32"
    return "update scaled", f"holds {factor:.4g} times the update; check lora_alpha, r and use_rslora"


def _known_factors(weights: MergedWeights) -> Iterator[tuple[float, str, str]]:
    yield -1.0, "sign flipped", "the adapter was subtracted (unmerged?); add it to the base"
    yield 2.0, "applied twice", "merge the adapter once"
    yield 0.5, "half applied", "merge the adapter with its full weight"
    factors = weights.tensor.factors
    if factors is None:
        return
    rank = factors.down.shape[0]
    if factors.scale not in (0.0, 1.0):
        yield 1 / factors.scale, "scale left out", f"multiply B A by alpha / r = {factors.scale:.4g}"
    if rank > 1:
        yield sqrt(rank), "rsLoRA scale", f"alpha / sqrt(r) was used for alpha / r, r = {rank}; check use_rslora"
        yield 1 / sqrt(rank), "plain LoRA scale", f"alpha / r was used for alpha / sqrt(r), r = {rank}"
        yield float(rank), "scale without r", f"alpha was used for alpha / r, r = {rank}"
    yield factors.scale, "scale applied twice", f"multiply B A by {factors.scale:.4g} once"


def _transposed(weights: MergedWeights) -> Cause | None:
    shape = weights.tensor.exact.shape
    if len(shape) != 2 or shape[0] != shape[1]:
        return None
    update = weights.update.view(shape).T.contiguous().flatten()
    found = weights.factors(update)
    if found.low > found.high or 0.0 in found:
        return None
    scale = "" if 1.0 in found else f" times {found.middle:.4g}"
    return "update transposed", f"holds (B A)' in place of B A{scale}; check fan_in_fan_out"


def _partial_rank(weights: MergedWeights) -> Cause | None:
    factors, shape = weights.tensor.factors, weights.tensor.exact.shape
    if not _is_plain(weights) or factors is None:
        return None
    up, down, moved = _oriented(factors, weights.moved.view(shape))
    # <moved, s u_i v_i'> against the Gram matrix of the components.
    gram = factors.scale**2 * (up.T @ up) * (down @ down.T)
    right = factors.scale * torch.einsum("mr,mn,rn->r", up, moved, down)
    shares = torch.linalg.lstsq(gram, right[:, None], driver="gelsd").solution[:, 0]
    kept = shares > 0.5
    count = int(kept.sum())
    if count in (0, len(kept)):
        return None
    update = factors.scale * (up[:, kept] @ down[kept])
    update = update if tuple(update.shape) == shape else update.T
    if not weights.explained_by(update.contiguous().flatten()):
        return None
    names = f"{count} of {len(kept)} components"
    return "partial rank", f"holds {names} of the adapter; merge all of its rank"


def _is_plain(weights: MergedWeights) -> bool:
    factors = weights.tensor.factors
    return (
        factors is not None
        and factors.magnitude is None
        and weights.tensor.exact.shape
        in (
            (factors.up.shape[0], *factors.down.shape[1:]),
            (factors.down.shape[-1], factors.up.shape[0]),
        )
    )


def _oriented(factors: Factors, moved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Factors in float64, and the weight's change laid out as their product."""
    up, down = factors.up.read().double(), factors.down.read().double()
    down = down.flatten(1)
    straight = tuple(moved.shape) == (up.shape[0], down.shape[1])
    return up, down, moved if straight else moved.T


def _sum_without_base(weights: MergedWeights) -> Cause | None:
    if float(weights.base.double().abs().sum()) and weights.explained_by(weights.exact - 2 * weights.base.double()):
        return "base left out", "the file holds the adapter's update alone; add it to the base"
    return None


def _otherwise(merge: Merge, weights: MergedWeights, *, on_other_base: bool) -> Cause:
    share = share_of(weights.moved, weights.update)
    left = float((weights.moved - share * weights.update).norm() / weights.update.norm().clamp_min(1e-300))
    seen = f"share of the update {share:.3g}, the rest {left:.3g} of its norm"
    if on_other_base and LOW <= share <= HIGH:
        return "merged on another base", f"{seen}; merge on the base named here, or name the one that was used"
    if left <= BLUR * abs(share):
        # Rounded more than once: no factor explains each entry, and one explains nearly all of the change.
        return _named_factor(weights, share, Interval(share, share))
    if other := _other_module(merge, weights):
        return "update of another module", f"holds the update of {other}; {seen}"
    if on_other_base or LOW <= share <= HIGH:
        return "holds more than the adapter", f"{seen}; merge on the base named here, with this adapter alone"
    return "not this adapter", f"{seen}; check the adapter's path and step"


def _other_module(merge: Merge, weights: MergedWeights) -> str | None:
    """The module of the adapter whose update this weight holds: a cosine over 0.7, and over that of its own."""
    if not _is_plain(weights):
        return None
    shape = weights.tensor.exact.shape
    best, found = max(0.7, _cosine(weights.moved, weights.update)), None
    for name, factors in islice(merge.others(weights.tensor), MOST):
        up, down, moved = _oriented(factors, weights.moved.view(shape))
        if tuple(moved.shape) == (up.shape[0], down.shape[1]) and factors.scale:
            cosine = _cosine(moved, factors.scale * up @ down)
            if cosine > best:
                best, found = cosine, name
    return found


def _cosine(moved: Tensor, other: Tensor) -> float:
    size = float(moved.norm() * other.norm())
    return float((moved * other).sum()) / size if size else 0.0
