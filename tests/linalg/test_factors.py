"""The cheap route gives the direct route's figures, or is not taken."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ckptaudit.linalg.factors import Factors, direct_values, singular_values
from ckptaudit.linalg.subspaces import principal_angles

K = 20


def with_spectrum(s: Tensor, shape: tuple[int, int], seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    u, v = (torch.linalg.qr(torch.randn(n, len(s), generator=random, dtype=torch.float64)).Q for n in shape)
    return ((u * s) @ v.T)[None]


def heavy(r: int) -> Tensor:
    return torch.arange(1, r + 1, dtype=torch.float64).pow(-0.5)


def taken_directly(factors: Factors) -> bool:
    return bool(factors._direct.all())


@pytest.mark.parametrize("shape", [(160, 200), (200, 160), (160, 160), (130, 900)])
def test_values_and_leading_spaces_are_those_of_a_direct_decomposition(shape: tuple[int, int]) -> None:
    stack = with_spectrum(heavy(min(shape)), shape)
    factors = Factors(stack, (K,))
    u, s, vh = torch.linalg.svd(stack, full_matrices=False)
    assert not taken_directly(factors)
    assert torch.allclose(factors.s, s, rtol=1e-10)
    assert principal_angles(u[:, :, :K], factors.left(K)).max() < 1e-7
    assert principal_angles(vh.mT[:, :, :K], factors.right(K)).max() < 1e-7
    assert torch.allclose(factors.part(K), (u[:, :, :K] * s[:, None, :K]) @ vh[:, :K], atol=1e-10)
    assert torch.linalg.vector_norm(factors.s - s) <= factors.s_error


@pytest.mark.parametrize("side", ["left", "right"])
def test_vectors_are_orthonormal_however_fast_the_spectrum_falls(side: str) -> None:
    stack = with_spectrum(torch.logspace(0, -5, 150, dtype=torch.float64), (150, 400))
    vectors = getattr(Factors(stack, (K,)), side)(150)
    assert torch.allclose(vectors.mT @ vectors, torch.eye(150, dtype=torch.float64), atol=1e-10)


@pytest.mark.parametrize(
    "spectrum",
    [
        pytest.param(
            torch.logspace(0, -12, 160, dtype=torch.float64), id="falls below the rounding of the squares"
        ),
        pytest.param(torch.cat([heavy(80), torch.zeros(80, dtype=torch.float64)]), id="rank deficient"),
        pytest.param(torch.ones(160, dtype=torch.float64), id="no gap anywhere"),
        pytest.param(torch.zeros(160, dtype=torch.float64), id="zero"),
    ],
)
def test_what_cannot_be_certified_is_decomposed_directly(spectrum: Tensor) -> None:
    stack = with_spectrum(spectrum, (160, 200))
    factors = Factors(stack, (K,))
    assert taken_directly(factors)
    assert factors.s.tolist() == torch.linalg.svdvals(stack).tolist() or torch.allclose(
        factors.s, torch.linalg.svdvals(stack), rtol=1e-12, atol=1e-15
    )
    assert factors.rank.item() == torch.linalg.matrix_rank(stack).item()


def test_one_doubtful_matrix_leaves_its_neighbours_on_the_cheap_route() -> None:
    stack = torch.cat([with_spectrum(heavy(160), (160, 200)), with_spectrum(torch.ones(160).double(), (160, 200))])
    factors = Factors(stack, (K,))
    assert factors._direct.tolist() == [False, True]
    u, _, vh = torch.linalg.svd(stack[:1], full_matrices=False)
    assert principal_angles(u[:, :, :K], factors.left(K)[:1]).max() < 1e-7
    assert principal_angles(vh.mT[:, :, :K], factors.right(K)[:1]).max() < 1e-7


@pytest.mark.parametrize("fall", [1, 6, 14])
def test_trusted_singular_values_are_right_to_a_millionth(fall: int) -> None:
    stack = with_spectrum(torch.logspace(0, -fall, 160, dtype=torch.float64), (160, 300))
    seen, exact = singular_values(stack, trusted=K), direct_values(stack)
    assert torch.allclose(seen[:, :K], exact[:, :K], rtol=1e-6, atol=0)
    assert torch.allclose(seen.square().sum(), exact.square().sum(), rtol=1e-9)
