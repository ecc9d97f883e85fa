"""Whatever a process has allowed torch, products that bounds rest on are in float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ckptaudit.linalg.precision import full_precision


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")


def settings() -> tuple[str, ...]:
    newer: tuple[Any, ...] = (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
    known = (str(one.fp32_precision) for one in newer if hasattr(one, "fp32_precision"))
    return torch.get_float32_matmul_precision(), *known


@pytest.mark.parametrize("allowed", ["highest", "high", "medium"])
def test_products_are_in_float32_and_the_setting_comes_back(allowed: str) -> None:
    torch.set_float32_matmul_precision(allowed)
    before = settings()
    with full_precision():
        assert settings()[0] == "highest"
        assert set(settings()[1:]) <= {"ieee"}
    assert settings() == before


def test_the_setting_comes_back_after_an_error() -> None:
    torch.set_float32_matmul_precision("medium")
    before = settings()
    with pytest.raises(ZeroDivisionError), full_precision():
        raise ZeroDivisionError
    assert settings() == before


def test_products_on_a_device_have_seven_digits(device: str) -> None:
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=random).to(device) for _ in range(2))
    torch.set_float32_matmul_precision("medium")
    with full_precision():
        off = (a @ b).double() - a.double() @ b.double()
    assert float(off.abs().max()) < 256 * 2.0**-24 * float((a.double().abs() @ b.double().abs()).max())
