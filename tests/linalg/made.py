"""Matrices made to measure."""

from __future__ import annotations

import torch
from torch import Tensor


def with_spectrum(s: Tensor, shape: tuple[int, int], seed: int = 0) -> Tensor:
    """A float64 matrix with these singular values and random singular vectors."""
    random = torch.Generator().manual_seed(seed)
    u, v = (torch.linalg.qr(torch.randn(n, len(s), generator=random, dtype=torch.float64)).Q for n in shape)
    return (u * s) @ v.T
