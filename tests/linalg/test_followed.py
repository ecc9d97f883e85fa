"""Following the tuned decomposition from the base's gives what float64 decompositions of both sides give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import subspace_angles
from torch import Tensor

from ckptaudit.linalg.followed import (
    Followed,
    angles,
    change_error,
    cross_product,
    own_product,
    update_values,
)

R, K = 120, 15
SHAPES = [(R, R), (300, R)]
SIZES = [1e-6, 3e-5, 4e-4]

SPECTRA = {
    "heavy": torch.arange(1, R + 1, dtype=torch.float64).pow(-0.5),
    "steep": torch.logspace(0, -2, R, dtype=torch.float64),
    "in pairs": torch.linspace(2, 1, R // 2, dtype=torch.float64).repeat_interleave(2),
}


def orthonormal(n: int, r: int, random: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(n, r, generator=random, dtype=torch.float64)).Q


def pair(
    kind: str, shape: tuple[int, int], size: float, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """A stored pair; the update is a low-rank step plus noise, of the given size relative to the base."""
    random = torch.Generator().manual_seed(0)
    m, n = shape
    base = (orthonormal(m, n, random) * SPECTRA[kind]) @ orthonormal(n, n, random).T
    low = torch.randn(m, 3, generator=random, dtype=torch.float64) @ torch.randn(3, n, generator=random).double()
    noise = torch.randn(m, n, generator=random, dtype=torch.float64)
    step = low / low.norm() + noise / noise.norm()
    return base.to(dtype), (base + size * base.norm() / step.norm() * step).to(dtype)


def followed(base: Tensor, tuned: Tensor) -> Followed:
    _, s, vh = torch.linalg.svd(base.double(), full_matrices=False)
    update = tuned.float() - base.float()
    cross, own = cross_product(base, update), own_product(update)
    return Followed(s, vh.mT.float().contiguous(), cross=cross, own=own)


def decomposed(base: Tensor, tuned: Tensor) -> list[tuple[NDArray[np.float64], ...]]:
    return [np.linalg.svd(w.double().numpy(), full_matrices=False) for w in (base, tuned)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", SPECTRA)
def test_the_shift_is_within_one_per_cent(kind: str, shape: tuple[int, int], size: float) -> None:
    base, tuned = pair(kind, shape, size)
    (_, before, _), (_, after, _) = decomposed(base, tuned)
    seen = followed(base, tuned)
    assert seen.shift() == pytest.approx(np.linalg.norm(after - before), rel=0.01)
    assert seen.shift_error(change_error(seen, base, tuned, (tuned - base).float())) < 0.01 * seen.shift()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["heavy", "steep"])
@pytest.mark.parametrize("wider", [0, 4])
def test_angles_are_right_to_one_per_cent_or_a_hundredth_of_a_degree(
    kind: str, shape: tuple[int, int], size: float, wider: int
) -> None:
    base, tuned = pair(kind, shape, size)
    (u0, _, v0), (u1, _, v1) = decomposed(base, tuned)
    found = followed(base, tuned).planes(K, K + wider)
    assert found is not None
    for planes, top in zip(found, (K, K + wider), strict=True):
        for tangents, before, after in ((planes.left, u0, u1), (planes.right, v0.T, v1.T)):
            expected = np.degrees(subspace_angles(before[:, :K], after[:, :top]))
            seen = angles(tangents, K)
            assert seen[-1].item() == pytest.approx(expected.max(), rel=0.01, abs=1e-5)
            assert seen.mean().item() == pytest.approx(expected.mean(), rel=0.01, abs=1e-5)


def test_bf16_rounding_is_part_of_the_update() -> None:
    base, tuned = pair("heavy", (300, R), 1e-3, torch.bfloat16)
    (u0, before, v0), (_, after, v1) = decomposed(base, tuned)
    seen = followed(base, tuned)
    assert seen.shift() == pytest.approx(np.linalg.norm(after - before), rel=0.01)
    inside = u0[:, :K].T @ (tuned.double() - base.double()).numpy() @ v0[:K].T
    assert seen.captured(K) == pytest.approx(np.linalg.norm(inside) ** 2, rel=1e-3)
    found = seen.planes(K, K)
    assert found is not None
    expected = np.degrees(subspace_angles(v0[:K].T, v1[:K].T)).max()
    assert angles(found[0].right, K)[-1].item() == pytest.approx(expected, rel=0.01, abs=1e-3)


def test_no_update_moves_nothing() -> None:
    base, _ = pair("heavy", (300, R), 1e-3)
    seen = followed(base, base)
    assert seen.shift() == 0
    found = seen.planes(K, K + 2)
    assert found is not None
    assert max(angles(t, K).max().item() for p in found for t in (p.left, p.right)) == 0


def test_a_subspace_without_a_gap_is_not_followed() -> None:
    base, tuned = pair("in pairs", (300, R), 4e-4)
    # K is odd: the cut goes through a pair of equal singular values.
    assert followed(base, tuned).planes(K, K) is None


def test_a_large_update_is_solved_whole() -> None:
    base, tuned = pair("heavy", (300, R), 0.05)
    (_, before, _), (_, after, _) = decomposed(base, tuned)
    seen = followed(base, tuned)
    assert torch.allclose(seen.tuned_squares.sqrt(), torch.from_numpy(after), rtol=1e-4)
    assert seen.shift() == pytest.approx(np.linalg.norm(after - before), rel=1e-3)


def test_an_error_in_the_products_is_noticed() -> None:
    base, tuned = pair("heavy", (300, R), 4e-4)
    update = tuned.float() - base.float()
    _, s, vh = torch.linalg.svd(base.double(), full_matrices=False)
    planted = 0.01 * cross_product(base, update)
    spoilt = Followed(
        s, vh.mT.float().contiguous(), cross=cross_product(base, update) + planted, own=own_product(update)
    )
    truth = torch.linalg.matrix_norm(planted + planted.mT).item()
    assert change_error(followed(base, tuned), base, tuned, (tuned - base).float()) < 0.01 * truth
    assert change_error(spoilt, base, tuned, (tuned - base).float()) == pytest.approx(truth, rel=0.7)


@pytest.mark.parametrize(("fall", "found"), [(1, True), (2, True), (7, False)])
def test_singular_values_of_the_update_are_right_or_not_given(fall: int, found: bool) -> None:
    random = torch.Generator().manual_seed(0)
    s = torch.logspace(0, -fall, R, dtype=torch.float64)
    update = ((orthonormal(300, R, random) * s) @ orthonormal(R, R, random).T).float()
    seen = update_values(own_product(update), trusted=R // 2)
    assert (seen is not None) is found
    if seen is not None:
        assert torch.allclose(seen[: R // 2], torch.linalg.svdvals(update.double())[: R // 2], rtol=2e-4)
