"""Projections from inner products alone, against least squares on the vectors themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckptaudit.linalg.spans import leading_energy, onto_leading, onto_span


def samples(seed: int, count: int = 6, entries: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    draw = torch.randn(count + 1, entries, generator=random, dtype=torch.float64)
    return draw[:-1], draw[-1]


def share(rows: torch.Tensor, vector: torch.Tensor) -> float:
    return onto_span(rows @ rows.mT, rows @ vector).share(rows @ vector, float(vector @ vector))


@given(seed=st.integers(0, 10_000))
def test_the_span_is_that_of_least_squares(seed: int) -> None:
    rows, vector = samples(seed)
    solution, *_ = np.linalg.lstsq(rows.numpy().T, vector.numpy(), rcond=None)
    projected = rows.numpy().T @ solution
    assert share(rows, vector) == pytest.approx(projected @ projected / (vector.numpy() @ vector.numpy()), rel=1e-9)


@given(seed=st.integers(0, 10_000), exponents=st.lists(st.integers(-12, 12), min_size=6, max_size=6))
def test_the_lengths_of_the_samples_do_not_matter(seed: int, exponents: list[int]) -> None:
    rows, vector = samples(seed)
    scaled = rows * torch.tensor([10.0**e for e in exponents], dtype=torch.float64)[:, None]
    assert share(scaled, vector) == pytest.approx(share(rows, vector), rel=1e-6)


def test_repeated_and_zero_samples_add_no_direction() -> None:
    rows, vector = samples(0)
    more = torch.cat([rows, 3 * rows[:2], torch.zeros(2, rows.shape[1], dtype=torch.float64)])
    projection = onto_span(more @ more.mT, more @ vector)
    assert projection.rank == len(rows)
    assert share(more, vector) == pytest.approx(share(rows, vector), rel=1e-9)


@given(seed=st.integers(0, 10_000), count=st.integers(1, 6))
def test_leading_directions_are_the_right_singular_vectors(seed: int, count: int) -> None:
    rows, vector = samples(seed)
    _, s, right = np.linalg.svd(rows.numpy(), full_matrices=False)
    inside = right[:count] @ vector.numpy()
    projection = onto_leading(rows @ rows.mT, rows @ vector, count)
    found = projection.share(rows @ vector, float(vector @ vector))
    assert projection.rank == count
    assert found == pytest.approx(inside @ inside / float(vector @ vector), rel=1e-7)
    assert leading_energy(rows @ rows.mT, count) == pytest.approx((s[:count] ** 2).sum() / (s**2).sum(), rel=1e-9)
