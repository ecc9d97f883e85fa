"""Steps of floating-point types against NumPy's, and factors against brute force."""

from __future__ import annotations

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckptaudit.linalg.rounding import coarser, factor_interval, narrower, spacing


@given(st.floats(-(2.0**127), 2.0**127, width=32))
def test_a_step_of_float32_is_numpys(value: float) -> None:
    found = spacing(torch.tensor([value], dtype=torch.float64), torch.float32)
    assert float(found) == float(numpy.spacing(numpy.abs(numpy.float32(value))))


@given(st.floats(-6e4, 6e4, width=16))
def test_a_step_of_float16_is_numpys(value: float) -> None:
    found = spacing(torch.tensor([value], dtype=torch.float64), torch.float16)
    assert float(found) == float(numpy.spacing(numpy.abs(numpy.float16(value))))


@given(st.floats(2.0**-100, 2.0**100, width=32))
def test_a_step_of_bfloat16_reaches_its_neighbour(value: float) -> None:
    own = torch.tensor([value]).bfloat16()
    neighbour = (own.view(torch.int16) + 1).view(torch.bfloat16)
    assert float(spacing(own.double(), torch.bfloat16)) == float(neighbour.double() - own.double())


@given(
    factor=st.floats(-3, 3),
    entries=st.lists(st.tuples(st.floats(-2, 2), st.floats(-1, 1)), min_size=1, max_size=12),
)
def test_the_factor_that_made_the_numbers_lies_in_the_interval(
    factor: float, entries: list[tuple[float, float]]
) -> None:
    update, noise = (torch.tensor(column, dtype=torch.float64) for column in zip(*entries, strict=True))
    found = factor_interval(factor * update + 0.1 * noise, update, torch.full_like(update, 0.1 + 1e-12))
    # A tiny update bounds nothing: its quotient may overflow on either side.
    assert found.low - 1e-6 <= factor <= found.high + 1e-6


def test_an_entry_without_an_update_must_lie_within_the_slack() -> None:
    moved, slack = torch.tensor([0.0, 0.3]).double(), torch.tensor([0.1, 0.1]).double()
    assert 0.0 not in factor_interval(moved, torch.tensor([1.0, 0.0]).double(), slack)
    assert 0.0 in factor_interval(moved, torch.tensor([1.0, 0.0]).double(), 3.5 * slack)


@pytest.mark.parametrize(
    ("first", "second", "coarse", "narrow"),
    [
        (torch.bfloat16, torch.float16, torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float16, torch.float16, torch.float16),
        (torch.float32, torch.float64, torch.float32, torch.float32),
    ],
)
def test_types_are_ordered_by_their_steps_and_by_their_bytes(
    first: torch.dtype, second: torch.dtype, coarse: torch.dtype, narrow: torch.dtype
) -> None:
    assert coarser(first, second) == coarser(second, first) == coarse
    assert narrower(first, second) == narrow
