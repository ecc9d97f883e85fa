"""Singular values from a Gram matrix are no further off, all together, than they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptaudit.linalg.gram import PARTIAL, SingularValues, gram, gram_error, roots, singular_values
from tests.linalg.made import with_spectrum

ROUNDING = 1e-13
"""What the reference may itself be off by, of the largest singular value."""


SPECTRA = {
    "heavy": torch.arange(1, 161, dtype=torch.float64).pow(-0.5),
    "steep": torch.logspace(0, -9, 160, dtype=torch.float64),
    "tied": torch.ones(160, dtype=torch.float64),
    "of rank 3": (torch.arange(160) < 3).double(),
    "zero": torch.zeros(160, dtype=torch.float64),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("shape", [(160, 1500), (1500, 160), (160, 160)])
@pytest.mark.parametrize("scale", [1.0, 1e-18, 1e18])
def test_the_error_covers_the_distance_to_a_direct_decomposition(
    name: str, shape: tuple[int, int], scale: float
) -> None:
    weight = scale * with_spectrum(SPECTRA[name], shape)
    found = singular_values(weight)
    off = np.linalg.norm(found.s.numpy() - np.linalg.svd(weight.numpy(), compute_uv=False))
    assert off <= found.error + ROUNDING * float(weight.norm())


def test_long_matrices_are_summed_in_parts_and_err_no_more_than_short_ones() -> None:
    random = torch.Generator().manual_seed(0)
    long = torch.randn(5 * PARTIAL + 17, 8, generator=random, dtype=torch.float64)
    squares = torch.linalg.svdvals(long).square()
    assert torch.allclose(gram(long), long.mT @ long, rtol=1e-12, atol=1e-9)
    off = np.linalg.norm(singular_values(long).s.numpy() - np.linalg.svd(long.numpy(), compute_uv=False))
    assert off <= singular_values(long).error + ROUNDING * float(long.norm())
    assert gram_error(len(long), 8, squares) < gram_error(2 * PARTIAL, 8, squares)


def test_a_well_conditioned_matrix_loses_next_to_nothing() -> None:
    assert singular_values(with_spectrum(SPECTRA["heavy"], (160, 300))).error < 1e-10


def test_small_values_drown_in_the_squares_and_that_is_said() -> None:
    weight = with_spectrum(SPECTRA["steep"], (160, 300))
    found = singular_values(weight)
    off = np.linalg.norm(found.s.numpy() - np.linalg.svd(weight.numpy(), compute_uv=False))
    assert 1e-10 < off <= found.error < 1e-5


@settings(max_examples=200)
@given(
    st.lists(st.floats(0, 4), min_size=1, max_size=8),
    st.floats(0, 1),
    st.lists(st.floats(-1, 1), min_size=8, max_size=8),
)
def test_roots_of_squares_that_are_off_lie_within_the_error(
    exact: list[float], doubt: float, moved: list[float]
) -> None:
    squares = torch.tensor(exact, dtype=torch.float64)
    seen = squares + doubt * torch.tensor(moved[: len(exact)], dtype=torch.float64)
    found = roots(seen, doubt)
    assert float(torch.linalg.vector_norm(found.s - squares.sqrt())) <= found.error * (1 + 1e-12)


def test_a_shift_is_off_by_no_more_than_both_sides() -> None:
    s = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    before, after = SingularValues(s, 0.25), SingularValues(s + torch.tensor([0.0, 3.0, 4.0]), 0.5)
    shift, error = after.shift_from(before)
    assert shift == pytest.approx(5.0)
    assert error == pytest.approx(0.75)


@pytest.mark.parametrize("rows", [7, 1024, 1025])
@pytest.mark.parametrize("by_columns", [False, True])
def test_one_strip_or_several_make_one_gram_matrix(rows: int, by_columns: bool) -> None:
    weight = torch.randn(rows, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    weight = weight.mT.contiguous().mT if by_columns else weight
    product = gram(weight)
    assert torch.equal(product, product.mT)
    assert np.allclose(product.numpy(), weight.double().numpy().T @ weight.double().numpy(), rtol=1e-13)
