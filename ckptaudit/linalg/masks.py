"""Sets of entries: which changed as bf16, which are largest or smallest; exact counts, ties included."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


def visibly_changed(
    base: Shaped[Tensor, "*shape"], tuned: Shaped[Tensor, "*shape"], *, eta: float
) -> Bool[Tensor, "*shape"]:
    """Entries that differ once both sides are cast to bf16.

    changed_ij iff abs(w1 - w0) > eta max(abs(w0), abs(w1)), on the bf16 values. With eta = 1e-3,
    under half a unit in the last place, "unchanged" means bitwise-equal bf16 (OPD C.3, after PNT).
    """
    before, after = base.to(torch.bfloat16).double(), tuned.to(torch.bfloat16).double()
    return (after - before).abs() > eta * torch.maximum(before.abs(), after.abs())


def in_top(values: Float[Tensor, "batch e"], *, count: int) -> Bool[Tensor, "batch e"]:
    """The `count` largest values of each row.

    The set has exactly `count` members: entries tied at the threshold enter in order of position,
    row-major, as with `numpy.argsort(-values, kind="stable")[:count]`. Ties are the rule, not the
    exception, among bf16 magnitudes.
    """
    if count <= 0:
        return torch.zeros_like(values, dtype=torch.bool)
    size = values.shape[1]
    threshold = values.kthvalue(size - count + 1, dim=1, keepdim=True).values
    above = values > threshold
    tied = values == threshold
    room = count - above.sum(dim=1, keepdim=True)
    return above | (tied & (tied.cumsum(dim=1) <= room))


def count_in_top(
    values: Float[Tensor, "batch e"], marked: Bool[Tensor, "batch e"], *, count: int
) -> Int[Tensor, "batch"]:
    """How many marked entries are among the `count` largest values of their row, ties as in `in_top`."""
    return (in_top(values, count=count) & marked).sum(dim=1)


def share_in_top(
    values: Float[Tensor, "batch m n"], marked: Bool[Tensor, "batch m n"], *, alpha: float
) -> Float[Tensor, "batch"]:
    """Of the marked entries, the share among the floor(alpha m n) largest values; `alpha` if none is marked.

    A random mark lands there with probability alpha, so a matrix without marks reads the random baseline.
    """
    count = int(alpha * values[0].numel())
    inside = count_in_top(values.flatten(1), marked.flatten(1), count=count).double()
    total = marked.flatten(1).sum(dim=1).double()
    return torch.where(total > 0, inside / total.clamp(min=1), torch.full_like(inside, alpha))
