"""Orthogonal updates and layers: planted truth, the expectation on noise, and what really trained ones read."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group
from torch import Tensor

from ckptaudit.metrics import PairBatch, matrix_metrics


def value(name: str, tuned: Tensor, base: Tensor | None = None) -> float:
    before = torch.zeros_like(tuned) if base is None else base
    return float(matrix_metrics()[name].compute(PairBatch(before[None], tuned[None])).item())


def orthogonal(n: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(ortho_group.rvs(n, random_state=seed))


def sample(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(24, 24), (24, 16), (16, 24)])
def test_a_semi_orthogonal_update_of_any_size_has_no_defect(shape: tuple[int, int]) -> None:
    q = orthogonal(24)[: shape[0], : shape[1]]
    assert value("update_semi_orthogonality_defect", 1e-5 * q) == pytest.approx(0, abs=1e-12)


def test_an_update_of_rank_one_reads_the_most_there_is() -> None:
    update = torch.outer(sample(16), sample(25))
    assert value("update_semi_orthogonality_defect", update) == pytest.approx(math.sqrt(15))


def test_an_update_on_half_of_the_directions_reads_one() -> None:
    q = orthogonal(16)
    assert value("update_semi_orthogonality_defect", q[:, :8] @ q[:8]) == pytest.approx(1)


@pytest.mark.parametrize("shape", [(200, 200), (100, 400), (400, 100)])
def test_noise_reads_the_root_of_its_aspect_ratio(shape: tuple[int, int]) -> None:
    expected = math.sqrt(min(shape) / max(shape))
    assert value("update_semi_orthogonality_defect", sample(*shape)) == pytest.approx(expected, rel=0.05)


def test_the_radius_of_an_update_is_its_largest_singular_value_against_the_bases() -> None:
    base = orthogonal(12, 1) * 5 @ orthogonal(12, 2)
    assert value("relative_update_spectral_norm", base + 0.1 * orthogonal(12, 3), base) == pytest.approx(0.02)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.sampled_from([1e-6, 1e-2, 1.0]))
def test_no_singular_value_moves_by_more_than_the_radius(seed: int, size: float) -> None:
    base, update = sample(12, 9, seed=seed), size * sample(12, 9, seed=seed + 1)
    before, after = (np.linalg.svd(w.numpy(), compute_uv=False) for w in (base, base + update))
    radius = value("relative_update_spectral_norm", base + update, base)
    assert np.abs(after - before).max() / before[0] <= radius * (1 + 1e-9) + 1e-14


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.01])
def test_a_scaled_orthogonal_layer_reads_what_the_formula_says(scale: float) -> None:
    layer = scale * orthogonal(20)
    off = abs(scale**2 - 1)
    assert value("orthogonality_defect", layer) == pytest.approx(off * math.sqrt(20), abs=1e-13)
    assert value("inner_product_distortion", layer) == pytest.approx(off, abs=1e-13)


def test_a_layer_with_fewer_outputs_than_inputs_is_orthonormal_in_its_rows_but_loses_directions() -> None:
    layer = orthogonal(20)[:12]
    assert value("orthogonality_defect", layer) == pytest.approx(0, abs=1e-12)
    assert value("inner_product_distortion", layer) == pytest.approx(1)


@settings(max_examples=40)
@given(st.integers(0, 1000), st.sampled_from([(8, 8), (12, 5), (5, 12)]))
def test_no_pair_of_unit_vectors_shows_more_than_the_distortion(seed: int, shape: tuple[int, int]) -> None:
    layer = orthogonal(12, seed)[: shape[0], : shape[1]] + 0.1 * sample(*shape, seed=seed)
    x, y = (v / v.norm() for v in sample(2, shape[1], seed=seed + 1))
    seen = abs(float((layer @ x) @ (layer @ y) - x @ y))
    assert seen <= value("inner_product_distortion", layer) * (1 + 1e-12)


@settings(max_examples=25)
@given(st.integers(0, 1000))
def test_rotating_inputs_or_outputs_changes_nothing(seed: int) -> None:
    layer = orthogonal(10, seed) + 0.1 * sample(10, 10, seed=seed)
    rotated = orthogonal(10, seed + 1) @ layer @ orthogonal(10, seed + 2)
    for name in ("orthogonality_defect", "inner_product_distortion"):
        assert value(name, rotated) == pytest.approx(value(name, layer), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("n", [8, 192])
def test_storing_an_orthogonal_matrix_costs_at_most_one_rounding(dtype: torch.dtype, n: int) -> None:
    seen = value("orthogonality_defect_in_roundings", orthogonal(n).to(dtype))
    assert (1e-3 if dtype is torch.float32 else 0.05) < seen <= 1


def test_noise_as_a_layer_is_as_far_from_orthogonal_as_its_moments_say() -> None:
    # Entries of variance 1 / n: E norm_F(Q'Q - I)^2 = n + 1.
    n = 300
    assert value("orthogonality_defect", sample(n, n) / math.sqrt(n)) == pytest.approx(math.sqrt(n + 1), rel=0.05)
