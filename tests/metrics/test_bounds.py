"""Every bound is a theorem: no input, however nasty, has an exact value on its wrong side."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles

from ckptaudit.metrics import LargePair, matrix_metrics
from tests.metrics.adversarial import KINDS, UPDATES, Matrix, base_of, stored, update_of

# The stable rank before rounding is that of the update times a factor: test_excesses.py bounds it.
OWN_BOUNDS = {"unrounded_stable_rank"}
BOUNDED = sorted(
    name for name, metric in matrix_metrics().items() if metric.bound is not None and name not in OWN_BOUNDS
)


def exact(w0: Matrix, w1: Matrix) -> dict[str, float]:
    """The metrics that have bounds, from float64 decompositions by NumPy and SciPy."""
    k, d = min(512, max(1, min(w0.shape) // 8)), w1 - w0
    (u0, s0, v0), (u1, s1, v1) = (np.linalg.svd(w, full_matrices=False) for w in (w0, w1))
    sd = np.linalg.svd(d, compute_uv=False)
    tail = k < len(sd) and sd[k] > 1e-12 * sd[0]
    top = max(k, int((s1 > 0.9 * s0[k - 1]).sum()))
    values = {
        "normalized_spectral_shift": np.linalg.norm(s1 - s0) / np.linalg.norm(s0),
        "spectral_shift_ratio": (
            np.linalg.norm(s1 - s0) / np.linalg.norm(d) * max(w0.shape) ** 0.5 if np.any(d) else 1.0
        ),
        "update_spectral_norm": sd[0],
        "update_stable_rank": (sd**2).sum() / sd[0] ** 2 if sd[0] else 0.0,
        # Where the top is flat there is no tail: the estimate ends at a million.
        "update_hill_alpha": k / max(np.log(sd[:k] / sd[k]).sum(), 1e-6 * k) if tail else 0.0,
    }
    for side, a, b in (("left", u0, u1), ("right", v0.T, v1.T)):
        angles = np.degrees(subspace_angles(a[:, :k], b[:, :k]))
        values[f"principal_angle_{side}_max"], values[f"principal_angle_{side}_mean"] = angles.max(), angles.mean()
        rotations = subspace_angles(a[:, :k], b[:, :top])
        values[f"principal_rotation_{side}"] = np.degrees(rotations).max()
        values[f"rms_rotation_{side}"] = np.degrees(np.arcsin(np.sqrt((np.sin(rotations) ** 2).mean())))
    return {name: float(value) for name, value in values.items()}


def test_every_bound_is_held_to_its_exact_value() -> None:
    sample = np.random.default_rng(0).standard_normal((16, 24))
    assert set(exact(sample, sample + 0.1)) == set(BOUNDED)


@settings(max_examples=250)
@given(
    st.integers(0, 10_000),
    st.sampled_from(KINDS),
    st.sampled_from(UPDATES),
    st.sampled_from([1e-6, 1e-4, 4e-3, 0.1, 3.0]),
    st.sampled_from([(16, 24), (24, 16), (32, 32), (17, 90), (8, 8)]),
    st.sampled_from([(torch.bfloat16, 1.0), (torch.float32, 1.0), (torch.float32, 1e-12), (torch.float32, 1e12)]),
)
def test_no_exact_value_lies_beyond_its_bound(
    seed: int, kind: str, change: str, size: float, shape: tuple[int, int], form: tuple[torch.dtype, float]
) -> None:
    random = np.random.default_rng(seed)
    dtype, scale = form
    before = scale * base_of(kind, shape, random)
    base, tuned = stored(before, before + size * update_of(change, before, random), dtype)
    pair = LargePair(base, tuned)
    seen = exact(base.double().numpy(), tuned.double().numpy())
    for name in BOUNDED:
        metric = matrix_metrics()[name]
        for way in filter(None, (metric.bound, metric.sharper_bound)):
            found = way(pair)
            if found is None:
                continue  # such a matrix is measured exactly
            bound = found.item()
            assert math.isfinite(bound), name
            # The oracle rounds too: relative to the base, whose decomposition it subtracts, or in degrees.
            room = (
                1e-6
                if "principal" in name or "rotation" in name
                else 1e-12 * (1 if name.startswith("normalized") else abs(bound))
            )
            if metric.upper_bound:
                assert seen[name] <= bound + room, (name, bound)
            else:
                assert seen[name] >= bound - room, (name, bound)


@pytest.mark.parametrize("shape", [(160, 300), (300, 160), (160, 160)])
def test_at_the_scale_of_reinforcement_learning_the_bounds_say_something(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    before = base_of("heavy", shape, random)
    noise, low = update_of("noise", before, random), update_of("low rank", before, random)
    base, tuned = stored(before, before + 3e-4 * (noise + low), torch.float32)
    pair = LargePair(base, tuned)
    seen = exact(base.double().numpy(), tuned.double().numpy())
    bounds = {name: matrix_metrics()[name].bound(pair).item() for name in BOUNDED}  # type: ignore[misc, union-attr]
    assert bounds["principal_rotation_left"] < 1
    assert bounds["update_stable_rank"] == pytest.approx(seen["update_stable_rank"], rel=0.05)
    assert bounds["update_spectral_norm"] == pytest.approx(seen["update_spectral_norm"], rel=0.05)
    assert bounds["principal_angle_left_mean"] <= bounds["principal_angle_left_max"] < 45
    assert 0 < bounds["update_hill_alpha"] <= seen["update_hill_alpha"]


@pytest.mark.parametrize("shape", [(160, 300), (300, 160), (160, 160)])
def test_a_bound_that_just_misses_gives_way_to_a_sharper_one(shape: tuple[int, int]) -> None:
    random, metric = np.random.default_rng(0), matrix_metrics()["normalized_spectral_shift"]
    before = base_of("heavy", shape, random)
    pair = LargePair(*stored(before, before + 3e-4 * update_of("noise", before, random), torch.float32))
    first = metric.bound(pair).item()  # type: ignore[misc, union-attr]
    assert metric.bound_for(pair, 1.1 * first) == first  # it settles the question
    assert metric.bound_for(pair, 0.5 * first) == first  # no sharper one would reach so far
    assert "facts" not in pair.__dict__  # the base was not looked at until here
    sharper = metric.bound_for(pair, 0.99 * first)
    assert sharper is not None
    assert metric.compute(pair).item() < sharper < 0.99 * first


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_beyond_the_range_of_float32_products_nothing_is_bounded(scale: float) -> None:
    random = np.random.default_rng(0)
    before = scale * base_of("heavy", (16, 24), random)
    pair = LargePair(*stored(before, 1.001 * before, torch.float32))
    bound = matrix_metrics()["principal_rotation_left"].bound
    assert bound is not None
    assert bound(pair) is None
    assert math.isfinite(matrix_metrics()["principal_rotation_left"].compute(pair).item())
