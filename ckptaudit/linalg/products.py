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


def multiply(
    a: Float[Tensor, "m k"], b: Float[Tensor, "k n"], out: Float[Tensor, "m n"] | None = None
) -> Float[Tensor, "m n"]:
    """A B, put into `out` if given. Equals `a @ b`, on a CPU through NumPy.

    Its BLAS multiplies a matrix by a hundred columns at full speed, where that of torch reaches two thirds, and
    takes the product of a matrix with its own transpose for the symmetric one that it is.
    """
    if a.device.type != "cpu":
        return torch.matmul(a, b, out=out)
    product = np.matmul(a.numpy(), b.numpy(), out=None if out is None else out.numpy())
    return torch.from_numpy(product) if out is None else out


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


def count_marked(mark: Bool[Tensor, "*shape"]) -> int:
    """How many entries are marked. Equals `torch.count_nonzero`, only faster."""
    return int(np.count_nonzero(mark.numpy()) if mark.device.type == "cpu" else torch.count_nonzero(mark))
