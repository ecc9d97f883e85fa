"""What is asked of a broken tensor, against NumPy in float64: over all pieces of it, and nothing written over."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ckptaudit.linalg.differences import PIECE
from ckptaudit.linalg.rearranged import distance, flipped_bit, moved_rows, order_of_rows, scaled_by

ROWS, COLUMNS = 700, 600
TYPES = [torch.bfloat16, torch.float16, torch.float32]
assert ROWS * COLUMNS > PIECE, "one piece would hold all entries"


def sides(dtype: torch.dtype, noise: float = 0.01) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    before = torch.randn(ROWS, COLUMNS, generator=random)
    return (before + noise * torch.randn(ROWS, COLUMNS, generator=random)).to(dtype), before.to(dtype)


def double(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return tensor.double().numpy()


@pytest.mark.parametrize("dtype", TYPES)
def test_the_distance_is_that_of_float64(dtype: torch.dtype) -> None:
    after, before = sides(dtype)
    true = np.linalg.norm(double(after) - double(before)) / np.linalg.norm(double(before))
    assert distance(after, before) == pytest.approx(true, rel=1e-4)


@pytest.mark.parametrize("times", [3.0, -1e-30, 1e25])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_scale_is_that_of_least_squares(dtype: torch.dtype, times: float) -> None:
    after, before = sides(dtype)
    after = after * times
    a, b = double(after).ravel(), double(before).ravel()
    (true,), *_ = np.linalg.lstsq(b[:, None], a, rcond=None)
    share, rest = scaled_by(after, before)
    assert share == pytest.approx(true, rel=1e-4)
    assert rest == pytest.approx(np.linalg.norm(a - true * b) / np.linalg.norm(a), rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(dtype=st.sampled_from(TYPES), place=st.integers(0, ROWS * COLUMNS - 1), power=st.sampled_from([8, math.nan]))
def test_one_flipped_bit_is_found_in_every_piece(dtype: torch.dtype, place: int, power: float) -> None:
    after, before = sides(dtype, noise=0.0)
    before.flatten()[place] = 1.5
    after.flatten()[place] = 1.5 * 2**power
    assert flipped_bit(after, before) == divmod(place, COLUMNS)


@pytest.mark.parametrize("power", [8, math.inf, math.nan])
@pytest.mark.parametrize("second", [ROWS * COLUMNS - 1, PIECE - 2, 0])
def test_two_entries_are_no_flipped_bit_wherever_the_other_lies(second: int, power: float) -> None:
    after, before = sides(torch.float32, noise=0.0)
    for place in (PIECE - 1, second):
        before.flatten()[place] = 1.5
        after.flatten()[place] = 1.5 * 2**power
    assert flipped_bit(after, before) is None


def test_rows_that_moved_by_half_their_norm() -> None:
    after, before = sides(torch.float32)
    before[3] = after[3] = 0  # a padded row of the vocabulary stays where it is
    after[5], after[PIECE // COLUMNS + 1], after[-1] = after[6], math.nan, -after[-1]
    assert torch.nonzero(moved_rows(after, before)).flatten().tolist() == [5, PIECE // COLUMNS + 1, ROWS - 1]


@pytest.mark.parametrize("dtype", TYPES)
def test_neither_side_is_written_over(dtype: torch.dtype) -> None:
    after, before = sides(dtype)
    after = after.flip(0)
    kept = after.clone(), before.clone()
    distance(after, before)
    scaled_by(after, before)
    flipped_bit(after, before)
    assert order_of_rows(after, before) is not None
    assert torch.equal(after, kept[0])
    assert torch.equal(before, kept[1])
