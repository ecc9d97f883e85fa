"""Rotation where the gap is degenerate: what a tie alone can do closes no gate, and no real rotation is missed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ckptaudit.linalg.subspaces import SEPARATION
from ckptaudit.metrics import PairBatch, matrix_metrics


def value(name: str, base: Tensor, tuned: Tensor) -> float:
    return float(matrix_metrics()[name].compute(PairBatch(base[None], tuned[None])).item())


def orthonormal(n: int, seed: int) -> Tensor:
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    return q


def with_spectrum(s: Tensor, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    u, v = orthonormal(len(s), seed), orthonormal(len(s), seed + 1)
    return (u * s) @ v.T, u, v


def test_a_tie_at_k_turns_the_defined_angle_and_not_the_rotation() -> None:
    # Sixteen dimensions, k = 2: the second and third singular values differ by a millionth.
    s = torch.tensor([2.0, 1.0 + 1e-6, 1.0, *torch.linspace(0.5, 0.1, 13)], dtype=torch.float64)
    base, u, v = with_spectrum(s)
    update = 1e-5 * (torch.outer(u[:, 1], v[:, 2]) + torch.outer(u[:, 2], v[:, 1]))
    tuned = base + update
    assert torch.linalg.norm(update) / torch.linalg.norm(base) < 1e-5
    assert value("principal_gap", base, tuned) < 1e-5
    assert value("principal_angle_left_max", base, tuned) > 40
    assert value("principal_rotation_left", base, tuned) < 0.01
    assert value("principal_rotation_right", base, tuned) < 0.01


@pytest.mark.parametrize("degrees", [0.05, 1.0, 20.0])
def test_a_planted_turn_into_far_directions_is_read_exactly(degrees: float) -> None:
    s = torch.tensor([4.0, 3.0, *torch.linspace(0.5, 0.1, 14)], dtype=torch.float64)
    base, u, v = with_spectrum(s)
    angle = np.radians(degrees)
    rotated = u.clone()
    rotated[:, 1] = np.cos(angle) * u[:, 1] + np.sin(angle) * u[:, 9]
    rotated[:, 9] = np.cos(angle) * u[:, 9] - np.sin(angle) * u[:, 1]
    tuned = (rotated * s) @ v.T
    for name in ("principal_angle_left_max", "principal_rotation_left"):
        assert value(name, base, tuned) == pytest.approx(degrees, rel=1e-6)
    assert value("principal_rotation_right", base, tuned) == pytest.approx(0, abs=1e-6)
    assert value("normalized_spectral_shift", base, tuned) == pytest.approx(0, abs=1e-12)


@settings(max_examples=60)
@given(
    st.integers(0, 10_000),
    st.sampled_from([1e-8, 1e-4, 1e-2, 0.3]),
    st.sampled_from([1e-20, 1.0, 1e20]),
    st.sampled_from(["flat", "tied", "heavy", "random"]),
)
def test_the_rotation_never_exceeds_its_bound(seed: int, size: float, scale: float, kind: str) -> None:
    random = torch.Generator().manual_seed(seed)
    spectra = {
        "flat": torch.ones(16, dtype=torch.float64),
        "tied": torch.tensor([2.0, 1.0, 1.0, 1.0, *[0.2] * 12], dtype=torch.float64),
        "heavy": 1 / torch.arange(1, 17, dtype=torch.float64),
        "random": torch.rand(16, generator=random, dtype=torch.float64).sort(descending=True).values + 1e-3,
    }
    base = scale * with_spectrum(spectra[kind], seed)[0]
    noise = torch.randn(16, 16, generator=random, dtype=torch.float64)
    tuned = base + size * torch.linalg.norm(base) / torch.linalg.norm(noise) * noise
    s_k = torch.linalg.svdvals(base)[1]
    bound = float(torch.linalg.matrix_norm(tuned - base, 2) / (SEPARATION * s_k))
    for side in ("left", "right"):
        rotated = value(f"principal_rotation_{side}", base, tuned)
        assert np.sin(np.radians(rotated)) <= bound + 1e-9
        assert rotated <= value(f"principal_angle_{side}_max", base, tuned) + 1e-6
