"""Sets of entries: which changed as bf16, which are largest or smallest; exact counts, ties included."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
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


def count_in_top(
    values: Float[Tensor, "batch e"], marked: Bool[Tensor, "batch e"], *, count: int
) -> Int[Tensor, "batch"]:
    """How many marked entries are among the `count` largest values of their row.

    The set has exactly `count` members: entries tied at the threshold enter in order of position,
    row-major, as with `numpy.argsort(-values, kind="stable")[:count]`. Ties are the rule, not the
    exception, among bf16 magnitudes.
    """
    if count <= 0:
        return marked.new_zeros(marked.shape[0], dtype=torch.int64)
    size = values.shape[1]
    threshold = values.kthvalue(size - count + 1, dim=1, keepdim=True).values
    above = values > threshold
    tied = values == threshold
    room = count - above.sum(dim=1, keepdim=True)
    admitted = tied & (tied.cumsum(dim=1) <= room)
    return ((above | admitted) & marked).sum(dim=1)


def top_mask(values: Float[Tensor, "e"], *, count: int, largest: bool = True) -> Bool[Tensor, "e"]:
    """The set that `count_in_top` counts in, for one row of bf16, fp16 or float32 magnitudes.

    The bits of such numbers are in the order of the numbers. A histogram over the upper sixteen finds where the
    threshold lies, and only the entries there are ranked: two passes instead of a selection over all.
    """
    keys = values.view(torch.int16 if values.element_size() == 2 else torch.int32)
    if not largest:
        keys = torch.iinfo(keys.dtype).max - keys
    if count <= 0:
        return torch.zeros_like(keys, dtype=torch.bool)
    threshold = _threshold(keys, count)
    mask = keys > threshold
    missing = count - int(torch.count_nonzero(mask))
    mask[(keys == threshold).nonzero().flatten()[:missing]] = True
    return mask


def _threshold(keys: Int[Tensor, "e"], count: int) -> Int[Tensor, ""]:
    """The `count`-th largest key."""
    coarse = keys if keys.dtype == torch.int16 else (keys >> 16).to(torch.int16)
    counts = torch.bincount(coarse, minlength=2**15)
    at_least = counts.flip(0).cumsum(0).flip(0)
    box = int((at_least >= count).sum()) - 1
    if coarse is keys:
        return keys.new_tensor(box)
    above = int(at_least[box] - counts[box])
    return keys[coarse == box].sort(descending=True).values[count - above - 1]


def packed(mask: Bool[Tensor, "e"]) -> UInt8[Tensor, "_"]:
    """Eight entries to the byte: bit j of byte i is entry j ceil(e / 8) + i, zeros at the end."""
    length = -(-mask.numel() // 8)
    planes = torch.zeros(8 * length, dtype=torch.uint8, device=mask.device)
    planes[: mask.numel()] = mask
    result = torch.zeros(length, dtype=torch.uint8, device=mask.device)
    for j, plane in enumerate(planes.view(8, length)):
        result |= plane << j
    return result


def count_inside(bits: UInt8[Tensor, "_"], marked: Bool[Tensor, "e"]) -> int:
    """How many marked entries are in a packed mask."""
    count, length = 0, bits.numel()
    for j in range(8):
        plane = marked[j * length : (j + 1) * length].view(torch.uint8)
        count += int(torch.count_nonzero((bits[: plane.numel()] >> j) & plane))
    return count


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
