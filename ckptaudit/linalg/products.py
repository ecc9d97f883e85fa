"""Matrix products, large arrays and comparisons as the processor does them best."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

UNIT = 2.0**-24
"""Half a unit in the last place of float32, relative."""

EPS = torch.finfo(torch.float64).eps

NUMPY_TYPES = {torch.float32: np.float32, torch.float64: np.float64, torch.bool: np.bool_}
"""The types of large arrays."""


def multiply(a: Float[Tensor, "m k"], b: Float[Tensor, "k n"]) -> Float[Tensor, "m n"]:
    """A B. Equals `a @ b`, on a CPU through NumPy.

    Its BLAS multiplies a matrix by a hundred columns at full speed, where that of torch reaches two thirds, and
    takes the product of a matrix with its own transpose for the symmetric one that it is.
    """
    if a.device.type != "cpu":
        return a @ b
    return torch.from_numpy(np.matmul(a.numpy(), b.numpy()))


def empty(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An array to be filled. Equals `torch.empty`; on a CPU NumPy asks the system for large pages.

    A matrix has thousands of small ones, and to be given them takes as long as to fill them.
    """
    if device.type != "cpu":
        return torch.empty(*shape, dtype=dtype, device=device)
    return torch.from_numpy(np.empty(shape, dtype=NUMPY_TYPES[dtype]))


def mark_nonzero(values: Float[Tensor, "*shape"], mark: Bool[Tensor, "*shape"]) -> None:
    """Mark entries that are not zero, NaN among them. Equals `torch.ne(values, 0, out=mark)`, only faster."""
    if values.device.type != "cpu":
        torch.ne(values, 0, out=mark)
    else:
        np.not_equal(values.numpy(), 0, out=mark.numpy())
