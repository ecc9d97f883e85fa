"""Why the Alignment Quality Index is no check: for two labelled classes its two halves are one number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 8), st.integers(0, 2**31))
def test_calinski_harabasz_times_xie_beni_is_a_constant(n0: int, n1: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = rng.normal(size=(n0, width)), rng.normal(1.0, 2.0, size=(n1, width))
    n, centre = n0 + n1, np.concatenate(classes).mean(axis=0)
    within = sum(((points - points.mean(axis=0)) ** 2).sum() for points in classes)
    between = sum(len(points) * ((points.mean(axis=0) - centre) ** 2).sum() for points in classes)
    apart = ((classes[0].mean(axis=0) - classes[1].mean(axis=0)) ** 2).sum()
    calinski_harabasz = between * (n - 2) / within
    xie_beni = within / (n * apart)
    assert calinski_harabasz * xie_beni == pytest.approx((n - 2) * n0 * n1 / n**2)
