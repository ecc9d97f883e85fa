"""Sets of entries: exact sizes, ties by position, whatever the type; eight entries to the byte."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptaudit.linalg import entry_sets
from ckptaudit.linalg.entry_sets import count_common, largest, packed, smallest

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@settings(max_examples=100)
@given(
    st.integers(0, 10_000),
    st.integers(1, 3000),
    st.sampled_from(DTYPES),
    st.sampled_from(["ties", "wide", "equal", "zeros", "close"]),
    st.booleans(),
    st.floats(0, 1),
)
def test_the_set_is_that_of_a_stable_sort(
    seed: int, size: int, dtype: torch.dtype, kind: str, descending: bool, share: float
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
    mask = np.zeros(size, dtype=bool)
    mask[np.argsort(-numbers if descending else numbers, kind="stable")[:count]] = True
    found = (largest if descending else smallest)(values, count)
    assert found.tolist() == np.packbits(mask, bitorder="little").tolist()


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("order", ["shuffled", "sorted", "tied"])
def test_a_sample_that_misses_the_threshold_costs_time_alone(order: str, share: float) -> None:
    size = 3 * entry_sets.SAMPLE
    random = np.random.default_rng(0)
    numbers = {
        "shuffled": random.random(size),
        # The sampled entries are the smallest of all.
        "sorted": np.where(np.arange(size) % (1 + size // entry_sets.SAMPLE) == 0, 0.0, random.random(size)),
        "tied": np.where(random.random(size) < 0.6, 1.0, random.random(size)),
    }[order].astype(np.float32)
    count = int(share * size)
    mask = np.zeros(size, dtype=bool)
    mask[np.argsort(-numbers, kind="stable")[:count]] = True
    assert np.array_equal(largest(torch.from_numpy(numbers), count).numpy(), np.packbits(mask, bitorder="little"))


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 200))
def test_packed_sets_are_counted_as_the_masks_themselves(seed: int, size: int) -> None:
    random = torch.Generator().manual_seed(seed)
    one, other = (torch.rand(size, generator=random) < 0.5 for _ in range(2))
    assert packed(one).numel() == -(-size // 8)
    assert count_common(packed(one), packed(other)) == int((one & other).sum())


@pytest.mark.parametrize("count", [0, 4])
def test_nothing_or_everything(count: int) -> None:
    everything = packed(torch.ones(4, dtype=torch.bool))
    assert count_common(largest(torch.ones(4), count), everything) == count


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [0.001, 0.5, 1.0])
@pytest.mark.parametrize("order", ["shuffled", "sorted", "tied"])
def test_every_device_finds_the_same_set(dtype: torch.dtype, share: float, order: str, device: str) -> None:
    size = 3 * entry_sets.SAMPLE + 5
    values = torch.rand(size, generator=torch.Generator().manual_seed(0)).to(dtype)
    values = {"shuffled": values, "sorted": values.sort().values, "tied": (4 * values).floor()}[order]
    count = int(share * size)
    keys = values.view(torch.int32 if dtype is torch.float32 else torch.int16).to(device)
    expected = int(keys.cpu().int().sort(descending=True).values[count - 1])
    assert int(entry_sets._threshold_there(keys, count)) == expected
    assert torch.equal(largest(values.to(device), count).cpu(), largest(values, count))
    assert torch.equal(smallest(values.to(device), count).cpu(), smallest(values, count))
