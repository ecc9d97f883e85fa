"""Leading triplets are as exact as they say, by whichever way they were found."""

from __future__ import annotations

import pytest
import torch

from ckptaudit.linalg import leading as module
from ckptaudit.linalg.gram import gram
from ckptaudit.linalg.leading import leading, spectrum, truncated
from ckptaudit.linalg.subspaces import principal_angles
from tests.linalg.made import with_spectrum

K = 20
COUNT = K + 1


SPECTRA = {
    "heavy": torch.arange(1, 161, dtype=torch.float64).pow(-0.5),
    "steep": torch.logspace(0, -9, 160, dtype=torch.float64),
    "tied": torch.ones(160, dtype=torch.float64),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("shape", [(160, 1500), (1500, 160), (160, 160)])
def test_the_residual_of_the_stored_vectors_is_what_is_told(name: str, shape: tuple[int, int]) -> None:
    weight = with_spectrum(SPECTRA[name], shape)
    found = leading(weight, K)
    assert found is not None
    exact = torch.linalg.svdvals(weight)
    assert torch.allclose(found.s, exact[: len(found.s)], rtol=1e-7, atol=0)
    left, right = found.left.double(), found.right.double()
    residuals = (weight @ right - left * found.s, weight.mT @ left - right * found.s)
    worst = max(float(torch.linalg.matrix_norm(x, 2)) for x in residuals)
    assert worst <= found.residual < 2 * worst + 1e-12
    for vectors in (left, right):
        assert torch.linalg.matrix_norm(vectors.mT @ vectors - torch.eye(len(found.s)), 2) <= found.skew
    assert found.residual < 1e-6
    assert found.skew < 1e-5
    following = exact[len(found.s)] if len(found.s) < 160 else 0.0
    assert following <= found.following <= following + 1e-6


@pytest.mark.parametrize(("name", "kept"), [("heavy", 20 / 0.85**2 + 8), ("steep", K + 1), ("tied", 2 * K)])
def test_directions_are_kept_down_to_below_the_band(name: str, kept: float) -> None:
    found = leading(with_spectrum(SPECTRA[name], (160, 300)), K)
    assert found is not None
    assert len(found.s) == pytest.approx(kept, abs=1 if name != "steep" else 8)


def test_leading_spaces_are_those_of_a_direct_decomposition() -> None:
    weight = with_spectrum(SPECTRA["heavy"], (300, 160))
    found = leading(weight, K)
    u, _, vh = torch.linalg.svd(weight, full_matrices=False)
    assert found is not None
    for seen, expected in ((found.left, u), (found.right, vh.mT)):
        orthonormal = torch.linalg.qr(seen[:, :20].double()).Q
        assert principal_angles(expected[None, :, :20], orthonormal[None]).max() < 1e-4


def test_a_spectrum_that_drowns_in_the_squares_is_decomposed_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = with_spectrum(torch.logspace(0, -6, COUNT, dtype=torch.float64), (160, 200))
    assert leading(weight, K) is not None
    monkeypatch.setattr(module, "_directly", lambda tall, k, band: None)
    assert leading(weight, K) is None


@pytest.mark.parametrize("rank", [0, 1, COUNT - 1])
def test_what_lies_beyond_the_rank_is_not_made_up(rank: int) -> None:
    spectrum = (torch.arange(160) < rank).double()
    assert leading(with_spectrum(spectrum, (160, 200)), K) is None


@pytest.mark.parametrize("n", [1, 63, 64, 130])
def test_half_a_gram_matrix_is_mirrored_whole(n: int) -> None:
    weight = torch.randn(1100, n, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.allclose(gram(weight), weight.double().mT @ weight.double(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(160, 1500), (1500, 160), (160, 160), (1, 5)])
def test_the_truncated_decomposition_is_that_of_the_matrix_itself(shape: tuple[int, int]) -> None:
    rank = min(COUNT, *shape)
    weight = with_spectrum(SPECTRA["heavy"][: min(shape)], shape).float()
    found = spectrum(weight, rank)
    u, s, vh = torch.linalg.svd(weight.double(), full_matrices=False)
    assert found is not None
    assert torch.allclose(found.s, s, rtol=1e-9)
    expected = (u[:, :rank] * s[:rank]) @ vh[:rank]
    assert torch.allclose(truncated(weight, found.short[:, :rank].float()).double(), expected, atol=1e-6)
