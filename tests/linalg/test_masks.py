"""Masks: exact sizes, ties by position, whatever the type; eight entries to the byte and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptaudit.linalg.masks import count_inside, packed, top_mask

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 3000),
    st.sampled_from(DTYPES),
    st.sampled_from(["ties", "wide", "equal", "zeros", "close"]),
    st.booleans(),
    st.floats(0, 1),
)
def test_the_mask_is_that_of_a_stable_sort(
    seed: int, size: int, dtype: torch.dtype, kind: str, largest: bool, share: float
) -> None:
    random = np.random.default_rng(seed)
    made = {
        "ties": random.integers(0, 5, size).astype(float),
        "wide": 10.0 ** random.uniform(-20, 20, size),
        "equal": np.full(size, 0.75),
        "zeros": np.where(random.random(size) < 0.9, 0.0, 1e-7),
        "close": 1 + random.integers(0, 9, size) * 2.0**-23,
    }[kind]
    values = torch.from_numpy(made).clamp(max=6e4 if dtype is torch.float16 else None, min=0).to(dtype)
    count = int(share * size)
    numbers = values.double().numpy()
    expected = np.zeros(size, dtype=bool)
    expected[np.argsort(-numbers if largest else numbers, kind="stable")[:count]] = True
    assert top_mask(values, count=count, largest=largest).tolist() == expected.tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 200))
def test_a_packed_mask_counts_as_the_mask_itself(seed: int, size: int) -> None:
    random = torch.Generator().manual_seed(seed)
    mask, marked = (torch.rand(size, generator=random) < 0.5 for _ in range(2))
    bits = packed(mask)
    assert bits.numel() == -(-size // 8)
    assert count_inside(bits, marked) == int((mask & marked).sum())


@pytest.mark.parametrize("count", [0, 4])
def test_nothing_or_everything(count: int) -> None:
    assert int(top_mask(torch.ones(4), count=count).sum()) == count
