"""Radix selection over a stream, against sorting all of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckptaudit.linalg.selection import Cut, cut_by_mass

KEYS = st.lists(
    st.one_of(st.floats(0, 1e300), st.sampled_from([0.0, 5e-324, 1.0, 1.0, 2.0])), min_size=1, max_size=40
)


def cut_of(keys: torch.Tensor, masses: torch.Tensor, wanted: float) -> Cut:
    halves = [(keys[::2], masses[::2]), (keys[1::2], masses[1::2])]
    return cut_by_mass(lambda: halves, wanted)


@given(keys=KEYS, share=st.floats(0.01, 1.0))
def test_the_largest_are_those_that_sorting_puts_first(keys: list[float], share: float) -> None:
    tensor = torch.tensor(keys, dtype=torch.float64)
    wanted = share * len(keys)
    cut = cut_of(tensor, torch.ones_like(tensor), wanted)
    threshold = np.sort(keys)[::-1][min(len(keys), int(np.ceil(wanted))) - 1]
    assert torch.equal(cut.is_above(tensor), tensor > threshold)
    assert torch.equal(cut.is_at(tensor), tensor == threshold)
    assert (cut.count_above, cut.count_at) == (int((tensor > threshold).sum()), int((tensor == threshold).sum()))


@given(seed=st.integers(0, 1000))
def test_masses_reach_what_was_wanted_at_the_cut(seed: int) -> None:
    keys = torch.rand(500, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    wanted = float(keys.sum()) / 2
    cut = cut_of(keys, keys, wanted)
    taken = np.sort(keys.numpy())[::-1].cumsum()
    assert cut.count_above == int((taken < wanted).sum())
    assert cut.above == pytest.approx(taken[cut.count_above - 1], rel=1e-12)
    assert cut.above < wanted <= cut.above + cut.at + 1e-9


def test_equal_keys_are_taken_in_equal_parts() -> None:
    keys = torch.tensor([3.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    cut = cut_of(keys, torch.ones_like(keys), 3.0)
    assert cut.share_of_ties(3.0) == pytest.approx(0.5)
