"""Products of float32 matrices in float32, whatever a process has allowed torch elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Hold torch to float32, where training allows TF32 on a GPU or bfloat16 on a CPU in its place.

    Both keep three digits where bounds count on seven. It is a setting of the process: other threads have it too.
    """
    legacy, newer = torch.get_float32_matmul_precision(), [(one, one.fp32_precision) for one in _settings()]
    torch.set_float32_matmul_precision("highest")
    for one, _ in newer:
        one.fp32_precision = "ieee"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(legacy)
        for one, value in newer:
            one.fp32_precision = value


def _settings() -> list[Any]:
    """Those of torch 2.9 and later, which its older function does not tell apart."""
    places: list[Any] = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    return [place for place in places if hasattr(place, "fp32_precision")]
