"""Angles and masks on their own, against SciPy and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles

from ckptaudit.linalg.masks import count_in_top
from ckptaudit.linalg.subspaces import principal_angles


def basis(seed: int, n: int, k: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 8), st.sampled_from([1e-10, 1e-5, 1e-2, 10.0]))
def test_angles_agree_with_scipy_at_every_scale(seed: int, k: int, size: float) -> None:
    x = basis(seed, 16, k)
    y = torch.linalg.qr(x + size * basis(seed + 1, 16, k)).Q
    expected = np.degrees(subspace_angles(x.numpy(), y.numpy()))[::-1]
    assert principal_angles(x[None], y[None])[0].tolist() == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-7)


def test_a_space_within_the_other_has_no_angle_to_it() -> None:
    y = basis(0, 12, 6)
    assert principal_angles(y[None, :, :3], y[None]).max() < 1e-6


def test_directions_without_a_partner_read_ninety_degrees() -> None:
    x = basis(0, 12, 3)
    angles = principal_angles(x[None], x[None, :, :1])[0]
    assert angles.tolist() == pytest.approx([0, 90, 90], abs=1e-6)


def test_an_angle_of_a_billionth_of_a_degree_keeps_its_digits() -> None:
    tiny = np.radians(1e-9)
    x = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    y = torch.tensor([[np.cos(tiny)], [np.sin(tiny)]], dtype=torch.float64)
    assert principal_angles(x[None], y[None]).item() == pytest.approx(1e-9, rel=1e-6)


@settings(max_examples=80)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.data())
def test_counts_in_the_top_are_those_of_a_stable_sort(values: list[int], data: st.DataObject) -> None:
    marks = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    count = data.draw(st.integers(0, len(values)))
    chosen = np.argsort(-np.array(values), kind="stable")[:count]
    seen = count_in_top(torch.tensor([values]).double(), torch.tensor([marks]), count=count)
    assert seen.item() == np.array(marks)[chosen].sum()
