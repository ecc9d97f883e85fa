"""What is expected of a blind update, against draws of one and against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

from ckptaudit.linalg.blind_updates import BlindUpdate
from ckptaudit.linalg.census import SAMPLE, binades, census, census_among, sample

Matrix = NDArray[np.float64]
SHARES = [0.02, 0.2, 0.6, 0.97]


def heavy(m: int, n: int, seed: int = 0) -> torch.Tensor:
    """bf16 weights over many binades: a product of two Gaussians."""
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.standard_normal((m, n)) * random.standard_normal((m, n))).bfloat16()


def drawn(weight: torch.Tensor, deviation: float, stored: torch.dtype, seed: int = 1) -> tuple[Matrix, Matrix]:
    """A Gaussian step, and the change that is left of it once the sum is stored."""
    before = weight.double().numpy()
    step = deviation * np.random.default_rng(seed).standard_normal(before.shape)
    return step, torch.from_numpy(before + step).to(stored).double().numpy() - before


def visible(weight: torch.Tensor, change: Matrix) -> NDArray[np.bool_]:
    after = torch.from_numpy(weight.double().numpy() + change).bfloat16()
    return (after != weight.bfloat16()).numpy()


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("kept", [torch.bfloat16, torch.float32])
def test_a_drawn_step_changes_the_share_that_was_asked_for(share: float, kept: torch.dtype) -> None:
    weight = heavy(400, 500)
    if kept == torch.float32:
        weight = (
            weight.double() * (1 + 0.003 * torch.rand(400, 500, generator=torch.Generator().manual_seed(2)))
        ).float()
    blind = BlindUpdate(census(weight), share)
    assert blind.census.on_grid is (kept == torch.bfloat16)
    _, change = drawn(weight, blind.deviation, torch.bfloat16)
    assert visible(weight, change).mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 2e5) + 2e-3)


@pytest.mark.parametrize("share", SHARES)
def test_the_deviation_is_the_root_that_scipy_finds(share: float) -> None:
    weight = heavy(60, 70)
    half = 2.0 ** (np.floor(np.log2(np.abs(weight.double().numpy()))) - 8)
    root = brentq(lambda e: float((2 * norm.sf(half / 2.0**e)).mean()) - share, -60, 20, xtol=1e-12)
    assert BlindUpdate(census(weight), share).deviation == pytest.approx(2.0**root, rel=1e-5)


@pytest.mark.parametrize("share", SHARES)
def test_draws_fall_among_the_smallest_and_among_any_marked_weights_as_often_as_expected(share: float) -> None:
    weight = heavy(400, 500)
    blind = BlindUpdate(census(weight), share)
    _, change = drawn(weight, blind.deviation, torch.bfloat16)
    seen = visible(weight, change).ravel()
    flat = np.abs(weight.double().numpy()).ravel()
    smallest = np.zeros(flat.size, dtype=bool)
    smallest[np.argsort(flat, kind="stable")[: flat.size // 2]] = True
    marked = np.random.default_rng(3).random(flat.size) < np.minimum(1.0, flat)
    inside = census_among(weight, torch.from_numpy(marked))
    for mask, expected in (
        (smallest, blind.share_among(blind.census.smallest(0.5))),
        (marked, blind.share_among(inside)),
    ):
        error = np.sqrt(0.25 / seen.sum())
        assert mask[seen].mean() == pytest.approx(expected, abs=4 * error + 2e-3)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize(("stored", "bits"), [(torch.bfloat16, 8), (torch.float16, 11), (torch.float32, 24)])
def test_what_passes_the_rounding_is_what_a_regression_finds(share: float, stored: torch.dtype, bits: int) -> None:
    weight = heavy(400, 500)
    blind = BlindUpdate(census(weight), share, bits=bits)
    step, change = drawn(weight, blind.deviation, stored)
    places = binades(weight).numpy()
    common = np.flatnonzero(np.bincount(places.ravel()) > 5000)
    for binade in common:
        squares = change[places == binade] ** 2
        if np.count_nonzero(squares) < 100:
            continue
        error = 5 * squares.std() / np.sqrt(squares.size)
        # The lowest weight of a binade has the finer unit of the binade below on one side.
        assert float(blind.energies[binade]) == pytest.approx(squares.mean(), rel=0.05, abs=error)
    coherent = (step * change).sum() ** 2 / ((step**2).sum() * (change**2).sum())
    assert blind.coherent_share == pytest.approx(coherent, rel=0.03)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(-40, 40), st.floats(0.01, 0.99))
def test_a_power_of_two_scales_the_deviation_and_nothing_else(seed: int, power: int, share: float) -> None:
    weight = heavy(20, 30, seed)
    one, other = (BlindUpdate(census(w), share) for w in (weight, weight * 2.0**power))
    assert other.deviation == pytest.approx(one.deviation * 2.0**power, rel=1e-5)
    assert other.share_among(other.census.smallest(0.5)) == pytest.approx(
        one.share_among(one.census.smallest(0.5)), rel=1e-5
    )
    assert other.coherent_share == pytest.approx(one.coherent_share, rel=1e-5)


def test_more_changes_come_with_less_preference_for_small_weights() -> None:
    known = census(heavy(100, 100))
    overlaps = [BlindUpdate(known, share).share_among(known.smallest(0.5)) or 0.0 for share in SHARES]
    assert overlaps == sorted(overlaps, reverse=True)
    assert overlaps[-1] == pytest.approx(0.5, abs=0.02)


def test_pruned_weights_that_stay_zero_are_left_out() -> None:
    weight = heavy(200, 300)
    weight[:, ::2] = 0
    pruned = BlindUpdate(census(weight), 0.25)
    assert float(pruned.counts[0]) == 0
    assert pruned.deviation == pytest.approx(BlindUpdate(census(weight[:, 1::2]), 0.5).deviation, rel=1e-5)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_nothing_and_everything_have_finite_expectations(share: float) -> None:
    blind = BlindUpdate(census(heavy(30, 40)), share)
    assert 0 < blind.deviation < float("inf")
    assert 0 <= blind.coherent_share <= 1


def test_a_large_matrix_is_sampled_in_every_column() -> None:
    weight = torch.ones(1024, 1024, dtype=torch.bfloat16)
    chosen = sample(1024, 1024)
    known = census(weight)
    assert known.sampled
    assert SAMPLE / 2 < known.size <= SAMPLE
    assert len(set((np.arange(1024 * 1024)[chosen] % 1024).tolist())) == 1024


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("rank", [1, 4])
def test_products_of_few_factors_have_the_heavier_tails_that_their_norm_tells(share: float, rank: int) -> None:
    weight = heavy(400, 500)
    random = np.random.default_rng(5)
    step = random.standard_normal((400, rank)) @ random.standard_normal((rank, 500)) / np.sqrt(rank)
    size = brentq(lambda e: visible(weight, 10.0**e * step).mean() - share, -8, 1, xtol=1e-4)
    before = weight.double().numpy()
    change = torch.from_numpy(before + 10.0**size * step).bfloat16().double().numpy() - before
    seen = visible(weight, change)
    light, heavier = (
        BlindUpdate(census(weight), float(seen.mean()), energy) for energy in (0.0, (change**2).mean())
    )
    assert light.tail == 0 < heavier.tail
    smallest = np.abs(before) < np.median(np.abs(before))
    off = [abs(x.share_among(x.census.smallest(0.5)) - smallest[seen].mean()) for x in (light, heavier)]
    assert off[1] < 0.03
    assert off[1] <= off[0] + 2e-3
    assert float((heavier.counts * heavier.energies).sum()) / heavier.census.size == pytest.approx(
        (change**2).mean(), rel=0.02
    )
