"""Sets of entries of one matrix, kept eight to the byte: the largest, the smallest, the changed ones.

Bit j of byte i is entry 8 i + j, row by row, as with `numpy.packbits(mask, bitorder="little")`; zeros follow.
On a CPU NumPy does the work: its comparisons run at the speed of memory, those of torch at a quarter of it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

Keys = np.ndarray[Any, np.dtype[np.signedinteger]]

SAMPLE = 2**16
"""Entries, about, among which a threshold is sought before it is sought among all."""

FEW = 16
"""Different keys that are counted one after the other."""

DEVIATIONS = 4.0
"""Standard deviations by which the rank of a sampled entry may miss its rank among all."""


def packed(mask: Bool[Tensor, "e"]) -> UInt8[Tensor, "_"]:
    """The set of the entries that are marked."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.packbits(mask.numpy(), bitorder="little"))
    padded = torch.nn.functional.pad(mask.to(torch.uint8), (0, -len(mask) % 8)).view(-1, 8)
    return (padded << _places(mask.device)).sum(dim=1, dtype=torch.uint8)


def members(bits: UInt8[Tensor, "b"], places: Int[Tensor, "p"]) -> Bool[Tensor, "p"]:
    """Which of the entries at these places are in a set."""
    return (bits[places >> 3].to(torch.int64) >> (places & 7)) & 1 == 1


def count_common(one: UInt8[Tensor, "b"], other: UInt8[Tensor, "b"]) -> int:
    """Number of entries that are in both sets."""
    both = one & other
    if both.device.type == "cpu":
        return int(np.bitwise_count(both.numpy()).sum(dtype=np.int64))
    return int(((both[:, None] >> _places(both.device)) & 1).sum())


def largest(values: Float[Tensor, "e"], count: int) -> UInt8[Tensor, "_"]:
    """The set of the `count` largest among bf16, fp16 or float32 numbers that are not negative.

    Entries tied at the threshold enter by position, as with `numpy.argsort(-values, kind="stable")[:count]`.
    """
    return _top(_keys(values), count)


def smallest(values: Float[Tensor, "e"], count: int) -> UInt8[Tensor, "_"]:
    """The set of the `count` smallest; ties as with `numpy.argsort(values, kind="stable")[:count]`."""
    keys = _keys(values)
    return _top(torch.iinfo(keys.dtype).max - keys, count)


def _keys(values: Float[Tensor, "e"]) -> Int[Tensor, "e"]:
    # The bits of such numbers, read as integers, are in the order of the numbers.
    return values.view(torch.int16 if values.element_size() == 2 else torch.int32)


def _top(keys: Int[Tensor, "e"], count: int) -> UInt8[Tensor, "_"]:
    if count <= 0:
        return torch.zeros(-(-len(keys) // 8), dtype=torch.uint8, device=keys.device)
    if keys.device.type == "cpu":
        return torch.from_numpy(_top_here(keys.numpy(), count))
    threshold = _threshold_there(keys, count)
    mask = keys > threshold
    tied = (keys == threshold).nonzero().flatten()
    mask[tied[: count - int(torch.count_nonzero(mask))]] = True
    return packed(mask)


def _top_here(keys: Keys, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    threshold = _threshold(keys, count)
    mask = keys > threshold
    missing = count - np.count_nonzero(mask)
    mask[np.flatnonzero(keys == threshold)[:missing]] = True
    return np.packbits(mask, bitorder="little")


def _threshold(keys: Keys, count: int) -> int:
    """The `count`-th largest key: between two of a sample that very likely enclose it, else by a full selection."""
    sample = np.sort(keys[:: 1 + len(keys) // SAMPLE])
    low, high = (int(sample[at]) for at in _enclosing(len(sample), count / len(keys)))
    above = int(np.count_nonzero(keys > high))
    if above < count and high - low < FEW:
        # Numbers of two bytes: few lie between, and counting them is quicker than to collect what equals them.
        while above + (here := int(np.count_nonzero(keys == high))) < count and high > low:
            above, high = above + here, high - 1
        if above + here >= count:
            return high
    between = np.compress((keys >= low) & (keys <= high), keys)
    if above < count <= above + len(between):
        keys, count = between, count - above
    return int(np.partition(keys, len(keys) - count)[len(keys) - count])


def _enclosing(size: int, share: float) -> tuple[int, int]:
    """Places in a sorted sample between which the key of this rank, a share from the top, very likely lies."""
    rank, doubt = size * (1 - share), DEVIATIONS / 2 * math.sqrt(size)
    low, high = (int(min(max(at, 0), size - 1)) for at in (rank - doubt, rank + doubt))
    return low, high


def _threshold_there(keys: Int[Tensor, "e"], count: int) -> Int[Tensor, ""]:
    """The same on another device, whose `kthvalue` would leave all of one array to a small part of it."""
    sample = keys[:: 1 + len(keys) // SAMPLE].sort().values
    low, high = (sample[at] for at in _enclosing(len(sample), count / len(keys)))
    above = int(torch.count_nonzero(keys > high))
    between = keys[(keys >= low) & (keys <= high)]
    if above < count <= above + len(between):
        keys, count = between, count - above
    return keys.sort(descending=True).values[count - 1]


def _places(device: torch.device) -> UInt8[Tensor, "8"]:
    return torch.arange(8, dtype=torch.uint8, device=device)
