"""What the update makes of the base's decomposition is what float64 decompositions of both sides give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import subspace_angles
from torch import Tensor

from ckptaudit.linalg import changes
from ckptaudit.linalg.changes import change_error, cross_product, own_product, update_values
from ckptaudit.linalg.tuned_gram import TunedGram

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


def by_gram(base: Tensor, tuned: Tensor, *, spoilt: float = 0.0) -> TunedGram:
    gram = base.double().mT @ base.double()
    squares, v = torch.linalg.eigh(gram)
    update = tuned.float() - base.float()
    cross, own = cross_product(base, update), own_product(update)
    return TunedGram(squares.flip(0).sqrt(), v.flip(1)[:, : K + 1], gram, cross=(1 + spoilt) * cross, own=own)


def decomposed(base: Tensor, tuned: Tensor) -> list[tuple[NDArray[np.float64], ...]]:
    return [np.linalg.svd(w.double().numpy(), full_matrices=False) for w in (base, tuned)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", SPECTRA)
def test_the_shift_is_within_one_per_cent(kind: str, shape: tuple[int, int], size: float) -> None:
    base, tuned = pair(kind, shape, size)
    (_, before, _), (_, after, _) = decomposed(base, tuned)
    seen = by_gram(base, tuned)
    assert seen.shift() == pytest.approx(np.linalg.norm(after - before), rel=0.01)
    assert seen.shift_error(change_error(seen.act, base, tuned, (tuned - base).float())) < 0.01 * seen.shift()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["heavy", "steep"])
@pytest.mark.parametrize("wider", [0, 4, R - K], ids=["k", "k + 4", "all"])
def test_angles_are_right_to_one_per_cent_or_a_hundredth_of_a_degree(
    kind: str, shape: tuple[int, int], size: float, wider: int
) -> None:
    base, tuned = pair(kind, shape, size)
    (u0, _, v0), (u1, _, v1) = decomposed(base, tuned)
    found = by_gram(base, tuned).angles(K, K + wider)
    assert found is not None
    for seen_angles, top in zip(found, (K, K + wider), strict=True):
        for seen, before, after in ((seen_angles.left, u0, u1), (seen_angles.right, v0.T, v1.T)):
            expected = np.degrees(subspace_angles(before[:, :K], after[:, :top]))
            # Against all directions there is nothing but rounding, on the left in a difference of squares.
            room = 1e-4 if top == R else 1e-5
            assert seen[-1].item() == pytest.approx(expected.max(), rel=0.01, abs=room)
            assert seen.mean().item() == pytest.approx(expected.mean(), rel=0.01, abs=room)


def test_bf16_rounding_is_part_of_the_update() -> None:
    base, tuned = pair("heavy", (300, R), 1e-3, torch.bfloat16)
    (u0, before, v0), (_, after, v1) = decomposed(base, tuned)
    seen = by_gram(base, tuned)
    assert seen.shift() == pytest.approx(np.linalg.norm(after - before), rel=0.01)
    inside = u0[:, :K].T @ (tuned.double() - base.double()).numpy() @ v0[:K].T
    assert seen.captured(K) == pytest.approx(np.linalg.norm(inside) ** 2, rel=1e-3)
    found = seen.angles(K, K)
    assert found is not None
    expected = np.degrees(subspace_angles(v0[:K].T, v1[:K].T)).max()
    assert found[0].right[-1].item() == pytest.approx(expected, rel=0.01, abs=1e-3)


def test_no_update_moves_nothing() -> None:
    base, _ = pair("heavy", (300, R), 1e-3)
    seen = by_gram(base, base)
    assert seen.shift() == pytest.approx(0, abs=1e-12)
    found = seen.angles(K, K + 2)
    assert found is not None
    assert max(angles.max().item() for way in found for angles in (way.left, way.right)) < 1e-9


def test_a_large_update_is_solved_as_well() -> None:
    base, tuned = pair("heavy", (300, R), 0.05)
    (_, before, _), (_, after, _) = decomposed(base, tuned)
    seen = by_gram(base, tuned)
    assert torch.allclose(seen.tuned_squares.sqrt(), torch.from_numpy(after), rtol=1e-4)
    assert seen.shift() == pytest.approx(np.linalg.norm(after - before), rel=1e-3)


def test_an_error_in_the_products_is_noticed() -> None:
    base, tuned = pair("heavy", (300, R), 4e-4)
    update = tuned.float() - base.float()
    planted = 0.01 * cross_product(base, update)
    truth = torch.linalg.matrix_norm(planted + planted.mT).item()
    assert change_error(by_gram(base, tuned).act, base, tuned, update) < 0.01 * truth
    assert change_error(by_gram(base, tuned, spoilt=0.01).act, base, tuned, update) == pytest.approx(truth, rel=0.7)


@pytest.mark.parametrize("narrow_side", [1, 512])
@pytest.mark.parametrize(("fall", "found"), [(1, True), (2, True), (7, False)])
def test_singular_values_of_the_update_are_right_or_not_given(
    fall: int, found: bool, narrow_side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "NARROW_SIDE", narrow_side)
    random = torch.Generator().manual_seed(0)
    s = torch.logspace(0, -fall, R, dtype=torch.float64)
    update = ((orthonormal(300, R, random) * s) @ orthonormal(R, R, random).T).float()
    seen = update_values(own_product(update), R // 2)
    assert (seen is not None) is found
    if seen is not None:
        assert torch.allclose(seen, torch.linalg.svdvals(update.double())[: R // 2], rtol=2e-4)
