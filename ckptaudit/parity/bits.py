"""Equality of stored numbers, bit by bit."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

PATTERNS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers as wide as a number, in which every NaN equals itself and 0 differs from -0."""


def bits_of(tensor: Tensor) -> Tensor:
    """The bit patterns of a tensor's entries as integers, one axis; complex numbers as pairs."""
    flat = tensor.contiguous().flatten()
    if flat.is_complex():
        flat = torch.view_as_real(flat).flatten()
    return flat.view(PATTERNS[flat.element_size()])


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are of one type and hold the same bits in the same order."""
    alike = first.dtype == second.dtype and first.numel() == second.numel()
    return alike and bool(torch.equal(bits_of(first), bits_of(second)))


def digest(tensor: Tensor) -> bytes:
    """A digest of type, shape and bits, equal for equal tensors: BLAKE2b of 16 bytes."""
    head = f"{tensor.dtype}{list(tensor.shape)}".encode()
    content = bits_of(tensor).numpy().data.cast("B") if tensor.numel() else b""
    return hashlib.blake2b(content, digest_size=16, key=hashlib.blake2b(head, digest_size=32).digest()).digest()
