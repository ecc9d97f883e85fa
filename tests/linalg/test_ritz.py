"""Angles found by Rayleigh-Ritz steps from the base's directions are those of float64 decompositions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import subspace_angles
from torch import Tensor

from ckptaudit.linalg.leading import leading
from ckptaudit.linalg.ritz import ritz_rotation

Matrix = NDArray[np.float64]
R, K, SHARE = 160, 20, 0.9


def orthonormal(n: int, random: np.random.Generator) -> Matrix:
    return np.asarray(np.linalg.qr(random.standard_normal((n, R)))[0])


SPECTRA = {
    "power law": np.arange(1, R + 1) ** -0.5,
    "ties at k": np.where(np.arange(R) < K + 4, 1.0, 0.5 * np.arange(1, R + 1) ** -0.5),
    "spikes on noise": np.where(np.arange(R) < K, 3.0, np.linspace(1, 0.1, R)),
}


def pair(kind: str, shape: tuple[int, int], size: float) -> tuple[Matrix, Matrix]:
    random = np.random.default_rng(0)
    base = (orthonormal(shape[0], random) * SPECTRA[kind]) @ orthonormal(shape[1], random).T
    noise = random.standard_normal(shape)
    low = random.standard_normal((shape[0], 2)) @ random.standard_normal((2, shape[1]))
    step = noise / np.linalg.norm(noise) + low / np.linalg.norm(low)
    tuned = base + size * np.linalg.norm(base) * step
    return base.astype(np.float32).astype(float), tuned.astype(np.float32).astype(float)


def drawn(seed: int) -> tuple[Matrix, Matrix]:
    """A pair of values drawn at random, of which many lie near the threshold, and an update of any size."""
    random = np.random.default_rng(seed)
    m, n = [(160, 400), (400, 160), (160, 160)][seed % 3]
    spectrum = np.sort(random.uniform(0.1, 1, R))[::-1]
    base = (orthonormal(m, random) * spectrum) @ orthonormal(n, random).T
    step = random.standard_normal((m, n))
    tuned = base + 10 ** random.uniform(-4, -1.3) * np.linalg.norm(base) / np.linalg.norm(step) * step
    return base.astype(np.float32).astype(float), tuned.astype(np.float32).astype(float)


def angles_of(base: Matrix, tuned: Matrix) -> tuple[Matrix, Matrix]:
    (u0, s0, v0), (u1, s1, v1) = (np.linalg.svd(w, full_matrices=False) for w in (base, tuned))
    top = max(K, int((s1 > SHARE * s0[K - 1]).sum()))
    sides = ((u0[:, :K], u1[:, :top]), (v0[:K].T, v1[:top].T))
    left, right = (np.degrees(subspace_angles(*side))[::-1] for side in sides)
    return left, right


def expected(base: Matrix, tuned: Matrix) -> tuple[float, float]:
    left, right = (float(angles.max()) for angles in angles_of(base, tuned))
    return left, right


def tensors(*sides: Matrix) -> list[Tensor]:
    return [torch.from_numpy(side).float() for side in sides]


@pytest.mark.parametrize("shape", [(160, 400), (400, 160), (160, 160)])
@pytest.mark.parametrize("size", [1e-3, 5e-3, 2e-2])
@pytest.mark.parametrize("kind", SPECTRA)
def test_the_rotation_is_right_within_its_error(kind: str, size: float, shape: tuple[int, int]) -> None:
    base, tuned = pair(kind, shape, size)
    before, after = tensors(base, tuned)
    top = leading(before, K)
    assert top is not None
    found = ritz_rotation(top, after, k=K, share=SHARE)
    assert found is not None
    for seen, exact in zip((found.angles.left, found.angles.right), expected(base, tuned), strict=True):
        assert float(seen[-1]) == pytest.approx(exact, rel=0.01, abs=0.01)
        assert abs(float(seen[-1]) - exact) <= 2 * found.error + 1e-3
    assert found.error <= max(0.01, 0.01 * max(expected(base, tuned)))


@pytest.mark.parametrize("seed", range(40))
def test_no_mean_of_the_angles_is_off_by_more_than_the_error(seed: int) -> None:
    base, tuned = drawn(seed)
    before, after = tensors(base, tuned)
    top = leading(before, K)
    assert top is not None
    found = ritz_rotation(top, after, k=K, share=SHARE)
    if found is None:
        return
    for seen, exact in zip((found.angles.left, found.angles.right), angles_of(base, tuned), strict=True):
        for mean in (np.max, np.mean, lambda x: np.sqrt(np.mean(np.square(x)))):
            assert abs(mean(seen.numpy()) - mean(exact)) <= found.error + 2e-4


@pytest.mark.parametrize("seed", [68, 69, 80, 92])
def test_directions_below_the_threshold_that_still_turn_are_not_waited_for(seed: int) -> None:
    base, tuned = drawn(seed)
    before, after = tensors(base, tuned)
    top = leading(before, K)
    assert top is not None
    assert ritz_rotation(top, after, k=K, share=SHARE) is not None


def test_a_new_direction_that_the_base_lacks_is_not_overlooked() -> None:
    base, _ = pair("power law", (400, 160), 0.0)
    random = np.random.default_rng(1)
    u, _, vh = np.linalg.svd(base, full_matrices=False)
    # A direction far below the base's top is raised above it.
    tuned = base + 2.0 * np.outer(u[:, 150], vh[150]) + 1e-3 * random.standard_normal(base.shape)
    before, after = tensors(base, tuned)
    top = leading(before, K)
    assert top is not None
    assert ritz_rotation(top, after, k=K, share=SHARE) is None


def test_a_spectrum_without_an_end_to_its_band_is_left_to_others() -> None:
    random = np.random.default_rng(0)
    base = orthonormal(400, random) @ orthonormal(160, random).T
    (before,) = tensors(base)
    top = leading(before, K)
    assert top is not None
    assert ritz_rotation(top, before, k=K, share=SHARE) is None
