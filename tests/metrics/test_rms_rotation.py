"""The root mean square rotation: right against SciPy, never above its bound, never above the largest angle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles

from ckptaudit.metrics import LargePair, PairBatch, matrix_metrics
from ckptaudit.metrics.matrix import MatrixMetric
from tests.metrics.adversarial import KINDS, UPDATES, Matrix, base_of, stored, update_of

SIDES = ["left", "right"]


def metric(name: str) -> MatrixMetric:
    return matrix_metrics()[name]


def by_scipy(w0: Matrix, w1: Matrix, side: str) -> float:
    k = min(512, max(1, min(w0.shape) // 8))
    (u0, s0, v0), (u1, s1, v1) = (np.linalg.svd(w, full_matrices=False) for w in (w0, w1))
    top = max(k, int((s1 > 0.9 * s0[k - 1]).sum()))
    before, after = (u0, u1) if side == "left" else (v0.T, v1.T)
    sines = np.sin(subspace_angles(before[:, :k], after[:, :top]))
    return float(np.degrees(np.arcsin(np.sqrt((sines**2).mean()))))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("shape", [(40, 56), (56, 40), (200, 160)])
@pytest.mark.parametrize("size", [1e-4, 5e-3, 0.2])
def test_angles_are_those_of_scipy(side: str, shape: tuple[int, int], size: float) -> None:
    random = np.random.default_rng(0)
    before = base_of("heavy", shape, random)
    base, tuned = stored(before, before + size * update_of("low rank", before, random), torch.float32)
    expected = by_scipy(base.double().numpy(), tuned.double().numpy(), side)
    for batch in (PairBatch(base[None], tuned[None]), LargePair(base, tuned, exact=True)):
        assert float(metric(f"rms_rotation_{side}").compute(batch)) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@settings(max_examples=120)
@given(
    st.integers(0, 10_000),
    st.sampled_from(KINDS),
    st.sampled_from(UPDATES),
    st.sampled_from([1e-6, 1e-4, 4e-3, 0.1, 3.0]),
    st.sampled_from([(16, 24), (24, 16), (32, 32), (17, 90), (8, 8), (64, 96), (90, 70)]),
    st.sampled_from([torch.bfloat16, torch.float32]),
)
def test_no_rotation_lies_beyond_its_bound_or_the_largest_angle(
    seed: int, kind: str, change: str, size: float, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    random = np.random.default_rng(seed)
    before = base_of(kind, shape, random)
    base, tuned = stored(before, before + size * update_of(change, before, random), dtype)
    pair = LargePair(base, tuned)
    for side in SIDES:
        found = metric(f"rms_rotation_{side}")
        exact = by_scipy(base.double().numpy(), tuned.double().numpy(), side)
        assert found.upper_bound is not None
        bound = found.upper_bound(pair)
        if bound is not None:
            assert exact <= bound.item() + 1e-6
        largest = metric(f"principal_rotation_{side}").compute(pair).item()
        assert found.compute(pair).item() <= largest + 1e-9


@pytest.mark.parametrize("change", ["noise", "low rank"])
def test_at_the_scale_of_reinforcement_learning_the_bound_says_something(change: str) -> None:
    random = np.random.default_rng(0)
    before = base_of("heavy", (300, 200), random)
    base, tuned = stored(before, before + 2e-3 * update_of(change, before, random), torch.float32)
    pair = LargePair(base, tuned)
    for side in SIDES:
        found = metric(f"rms_rotation_{side}")
        assert found.upper_bound is not None
        bound = found.upper_bound(pair)
        assert bound is not None
        assert bound.item() < 5 * by_scipy(before, tuned.double().numpy(), side)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from(["left", "right"]), st.integers(-20, 20))
def test_transposing_exchanges_the_sides_and_scaling_changes_nothing(seed: int, side: str, power: int) -> None:
    random = np.random.default_rng(seed)
    before = base_of("heavy", (24, 40), random)
    base, tuned = stored(before, before + 1e-2 * update_of("noise", before, random), torch.float32)
    other = SIDES[1 - SIDES.index(side)]
    first = metric(f"rms_rotation_{side}").compute(PairBatch(base[None], tuned[None])).item()
    turned = PairBatch(base.mT[None], tuned.mT[None])
    scaled = PairBatch(base[None] * 2.0**power, tuned[None] * 2.0**power)
    assert metric(f"rms_rotation_{other}").compute(turned).item() == pytest.approx(first, rel=1e-6)
    assert metric(f"rms_rotation_{side}").compute(scaled).item() == pytest.approx(first, rel=1e-9)
