"""Leading triplets are as exact as they say, by whichever way they were found."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ckptaudit.linalg import leading as module
from ckptaudit.linalg.leading import gram, leading, part, spectrum
from ckptaudit.linalg.subspaces import principal_angles

COUNT = 21


def with_spectrum(s: Tensor, shape: tuple[int, int]) -> Tensor:
    random = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(n, len(s), generator=random, dtype=torch.float64)).Q for n in shape)
    return (u * s) @ v.T


SPECTRA = {
    "heavy": torch.arange(1, 161, dtype=torch.float64).pow(-0.5),
    "steep": torch.logspace(0, -9, 160, dtype=torch.float64),
    "tied": torch.ones(160, dtype=torch.float64),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("shape", [(160, 1500), (1500, 160), (160, 160)])
def test_the_residual_is_within_the_error_that_is_told(name: str, shape: tuple[int, int]) -> None:
    weight = with_spectrum(SPECTRA[name], shape)
    found = leading(weight, COUNT)
    assert found is not None
    assert torch.allclose(found.s, torch.linalg.svdvals(weight)[:COUNT], rtol=1e-7, atol=0)
    left, right = found.left.double(), found.right.double()
    # The vectors are kept in float32: their rounding comes on top of the error.
    rounding = found.blur * float(found.s[0]) * COUNT**0.5 * 2
    for residual in (weight @ right - left * found.s, weight.mT @ left - right * found.s):
        assert torch.linalg.matrix_norm(residual, 2) <= found.error + rounding
    assert found.error < 1e-6
    assert found.blur < 3e-4


@pytest.mark.parametrize("shape", [(160, 1500), (1500, 160)])
def test_no_vector_is_further_from_the_exact_one_than_the_blur(shape: tuple[int, int]) -> None:
    weight = with_spectrum(SPECTRA["heavy"], shape)
    found = leading(weight, COUNT)
    u, _, vh = torch.linalg.svd(weight, full_matrices=False)
    assert found is not None
    for seen, exact in ((found.left, u), (found.right, vh.mT)):
        exact = exact[:, :COUNT]
        signs = (seen.double() * exact).sum(dim=0).sign()
        assert torch.linalg.vector_norm(seen.double() - exact * signs, dim=0).max() <= found.blur


def test_leading_spaces_are_those_of_a_direct_decomposition() -> None:
    weight = with_spectrum(SPECTRA["heavy"], (300, 160))
    found = leading(weight, COUNT)
    u, _, vh = torch.linalg.svd(weight, full_matrices=False)
    assert found is not None
    for seen, expected in ((found.left, u), (found.right, vh.mT)):
        orthonormal = torch.linalg.qr(seen[:, :20].double()).Q
        assert principal_angles(expected[None, :, :20], orthonormal[None]).max() < 1e-4


def test_a_spectrum_that_drowns_in_the_squares_is_decomposed_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = with_spectrum(torch.logspace(0, -6, COUNT, dtype=torch.float64), (160, 200))
    assert leading(weight, COUNT) is not None
    monkeypatch.setattr(module, "_directly", lambda tall, count: None)
    assert leading(weight, COUNT) is None


@pytest.mark.parametrize("rank", [0, 1, COUNT - 1])
def test_what_lies_beyond_the_rank_is_not_made_up(rank: int) -> None:
    spectrum = (torch.arange(160) < rank).double()
    assert leading(with_spectrum(spectrum, (160, 200)), COUNT) is None


@pytest.mark.parametrize("n", [1, 63, 64, 130])
def test_half_a_gram_matrix_is_mirrored_whole(n: int) -> None:
    weight = torch.randn(1100, n, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.allclose(gram(weight), weight.double().mT @ weight.double(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(160, 1500), (1500, 160), (160, 160), (1, 5)])
@pytest.mark.parametrize("short_side", [8, 1536])
def test_the_part_of_some_rank_is_the_truncated_decomposition(
    shape: tuple[int, int], short_side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRAM_SIDE", short_side)
    rank = min(COUNT, *shape)
    weight = with_spectrum(SPECTRA["heavy"][: min(shape)], shape).float()
    found = spectrum(weight, rank)
    u, s, vh = torch.linalg.svd(weight.double(), full_matrices=False)
    assert found is not None
    assert torch.allclose(found.s, s, rtol=1e-9)
    assert (found.gram is None) is (min(shape) > short_side)
    expected = (u[:, :rank] * s[:rank]) @ vh[:rank]
    assert torch.allclose(part(weight, found.short[:, :rank].float()).double(), expected, atol=1e-6)
