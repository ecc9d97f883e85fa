"""Products and comparisons equal those of torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ckptaudit.linalg.products import empty, mark_nonzero, multiply

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_takes_matrices_as_they_lie(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(40, 60, generator=random, dtype=dtype) for _ in range(2))
    room: dict[str, Any] = {"rtol": 0, "atol": 1e-12 if dtype == torch.float64 else 1e-4}
    assert torch.allclose(multiply(a, b.mT), a @ b.mT, **room)
    assert torch.allclose(multiply(a.mT, b), a.mT @ b, **room)
    assert torch.allclose(multiply(a.mT, a), a.mT @ a, **room)
    assert torch.allclose(multiply(a[:, 3:33], b[5:35]), a[:, 3:33] @ b[5:35], **room)
    assert multiply(a[:0], b.mT).shape == (0, 40)


def test_what_is_marked_is_what_is_not_zero() -> None:
    values = torch.tensor([0.0, -0.0, 1e-45, -3.0, float("nan"), float("inf")])
    mark = empty(6, dtype=torch.bool, device=CPU)
    mark_nonzero(values, mark)
    assert mark.tolist() == torch.ne(values, 0).tolist() == [False, False, True, True, True, True]


def test_an_empty_array_has_shape_and_type() -> None:
    made = empty(3, 5, dtype=torch.float32, device=CPU)
    assert made.shape == (3, 5)
    assert made.dtype == torch.float32
