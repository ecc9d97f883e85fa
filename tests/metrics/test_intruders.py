"""Intruder dimensions: planted ones are counted, and chance behaves as it should."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group
from torch import Tensor

from ckptaudit.metrics import PairBatch, matrix_metrics

COUNTS = ("intruder_dimensions_left", "intruder_dimensions_right")


def value(name: str, base: Tensor, tuned: Tensor) -> float:
    return float(matrix_metrics()[name].compute(PairBatch(base[None], tuned[None])).item())


def descending(n: int = 64) -> Tensor:
    """A diagonal base: its singular vectors are the axes."""
    return torch.diag(torch.linspace(2, 1, n, dtype=torch.float64))


def flat(n: int = 64) -> Tensor:
    """The unit vector that is as far from every axis as can be: cosine 1 / sqrt(n) to each."""
    return torch.full((n,), n**-0.5, dtype=torch.float64)


def test_a_strong_new_direction_is_one_intruder_on_its_own_side() -> None:
    axis = torch.eye(64, dtype=torch.float64)[0]
    tuned = descending() + 100 * torch.outer(flat(), axis)
    assert value("intruder_dimensions_left", descending(), tuned) == 1
    assert value("intruder_dimensions_right", descending(), tuned) == 0


def test_the_same_direction_on_a_known_axis_is_none() -> None:
    axis = torch.eye(64, dtype=torch.float64)[40]
    tuned = descending() + 100 * torch.outer(axis, axis)
    assert [value(name, descending(), tuned) for name in COUNTS] == [0, 0]


def test_the_resemblance_of_a_new_direction_is_its_largest_cosine() -> None:
    tuned = descending() + 1e9 * torch.outer(flat(), flat())
    assert value("least_similar_direction", descending(), tuned) == pytest.approx(1 / math.sqrt(64), rel=1e-6)


def test_a_weak_new_direction_is_not_among_the_leading_and_does_not_count() -> None:
    tuned = descending() + 1e-3 * torch.outer(flat(), flat())
    assert [value(name, descending(), tuned) for name in COUNTS] == [0, 0]
    assert value("least_similar_direction", descending(), tuned) > 0.99


def test_unrelated_matrices_share_no_leading_direction() -> None:
    base, tuned = torch.randn(2, 256, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert [value(name, base, tuned) for name in COUNTS] == [10, 10]


def test_in_few_dimensions_everything_resembles_something() -> None:
    # Of n orthonormal axes one always has a cosine of at least 1 / sqrt(n): up to 4 rows nothing can intrude.
    base, tuned = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert [value(name, base, tuned) for name in COUNTS] == [0, 0]


def test_directions_of_nothing_neither_intrude_nor_answer_for_one() -> None:
    zero = torch.zeros(16, 16, dtype=torch.float64)
    rank_one = torch.outer(flat(16), flat(16))
    assert [value(name, rank_one, zero) for name in COUNTS] == [0, 0]
    assert [value(name, zero, rank_one) for name in COUNTS] == [1, 1]
    assert value("least_similar_direction", zero, rank_one) == 0


@settings(max_examples=25)
@given(st.integers(0, 1000), st.floats(0.1, 50), st.floats(0.01, 100))
def test_scale_and_coordinates_do_not_enter(seed: int, strength: float, scale: float) -> None:
    u, v = torch.randn(2, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    base = descending(32)
    tuned = base + strength * torch.outer(u, v) / 32
    left, right = (torch.from_numpy(ortho_group.rvs(32, random_state=seed + i)) for i in (1, 2))
    here = value("least_similar_direction", base, tuned)
    there = value("least_similar_direction", scale * left @ base @ right, scale * left @ tuned @ right)
    assert there == pytest.approx(here, abs=1e-6)
    assert 0 <= here <= 1
