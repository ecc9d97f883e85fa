"""Whether one tensor's rows are another's in a different order, and which order that is."""

from __future__ import annotations

import torch
from torch import Tensor

from ckptaudit.parity.bits import PATTERNS, same_bits

LARGEST_HEAD = 512
AT_ONCE = 2**22
"""Entries hashed in one piece."""


def order_of_rows(original: Tensor, stored: Tensor) -> Tensor | None:
    """The order p with stored = original[p], or None: rows are matched by hashes and then compared bit by bit."""
    if original.shape != stored.shape or not original.numel():
        return None
    ours, theirs = _row_hashes(original), _row_hashes(stored)
    sorted_ours, by_ours = torch.sort(ours, stable=True)
    sorted_theirs, by_theirs = torch.sort(theirs, stable=True)
    if not torch.equal(sorted_ours, sorted_theirs):
        return None
    order = torch.empty_like(by_ours)
    order[by_theirs] = by_ours
    return order if same_bits(original[order], stored) else None


def order_of_columns(original: Tensor, stored: Tensor) -> Tensor | None:
    """The order p with stored = original[..., p], or None."""
    if original.dim() < 2 or original.shape != stored.shape:
        return None
    return order_of_rows(original.movedim(-1, 0).contiguous(), stored.movedim(-1, 0).contiguous())


def order_words(order: Tensor, noun: str) -> str:
    """The order in words: known ones by name, others by how many moved."""
    moved = int((order != torch.arange(len(order))).sum())
    if torch.equal(order, torch.arange(len(order)).flip(0)):
        return f"all {len(order)} {noun} stand in reverse order"
    if head := _rotary_head(order):
        return f"rotary halves are interleaved, or not, within heads of {head}; permute q and k for this format"
    return f"{moved} of {len(order)} {noun} stand in another place; restore their order"


def _rotary_head(order: Tensor) -> int | None:
    """The head size of which this order interleaves the halves, or takes them apart."""
    count = len(order)
    for head in (size for size in range(4, min(count, LARGEST_HEAD) + 1, 2) if count % size == 0):
        places = torch.arange(count)
        together = places.view(-1, 2, head // 2).transpose(1, 2).flatten()
        apart = places.view(-1, head // 2, 2).transpose(1, 2).flatten()
        if torch.equal(order, together) or torch.equal(order, apart):
            return head
    return None


def _row_hashes(tensor: Tensor) -> Tensor:
    """A linear hash of each row's bits modulo 2^64; equal rows have equal hashes."""
    rows = tensor.contiguous().flatten(1) if tensor.dim() > 1 else tensor.contiguous()[:, None]
    rows = rows.view(PATTERNS[rows.element_size()])
    random = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, (rows.shape[1],), generator=random, dtype=torch.int64) | 1
    pieces = torch.split(rows, max(1, AT_ONCE // max(1, rows.shape[1])))
    return torch.cat([(piece.long() * weights).sum(dim=1) for piece in pieces])
