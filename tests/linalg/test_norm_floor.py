"""A lower bound on the spectral norm of an update: never above it, and close to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ckptaudit.linalg.bounds import norm_floor
from tests.metrics.adversarial import KINDS, base_of


def floor_and_norm(update: Tensor) -> tuple[float, float]:
    wide = update.double().numpy()
    return norm_floor(update, size=float(np.linalg.norm(wide)) * (1 + 2.0**-22)), float(np.linalg.norm(wide, 2))


def drawn(m: int, n: int) -> Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(m + n))


@settings(max_examples=80)
@given(
    st.integers(0, 1000),
    st.sampled_from(KINDS),
    st.sampled_from([(16, 24), (24, 16), (1, 7), (7, 1), (8, 8), (300, 40), (3, 3)]),
    st.sampled_from([1.0, 1e-24, 1e17]),
)
def test_never_above_the_norm(seed: int, kind: str, shape: tuple[int, int], scale: float) -> None:
    update = torch.from_numpy(base_of(kind, shape, np.random.default_rng(seed))).float() * scale
    if bool(update.any()):
        floor, norm = floor_and_norm(update)
        assert 0 <= floor <= norm * (1 + 1e-12)


@pytest.mark.parametrize("shape", [(700, 300), (300, 700), (400, 400), (64, 500)])
def test_noise_has_nothing_to_converge_to_and_is_still_bounded_closely(shape: tuple[int, int]) -> None:
    floor, norm = floor_and_norm(drawn(*shape))
    assert 0.93 * norm < floor <= norm


@pytest.mark.parametrize("shape", [(700, 300), (300, 700), (400, 400)])
@pytest.mark.parametrize("scale", [1.0, 1e-22])
def test_a_direction_that_stands_out_is_found(shape: tuple[int, int], scale: float) -> None:
    low = drawn(shape[0], 8) @ drawn(8, shape[1])
    floor, norm = floor_and_norm(scale * (drawn(*shape) + 0.2 * low))
    assert 0.995 * norm < floor <= norm


@pytest.mark.parametrize("rows", [1, 8, 9])
def test_what_the_first_rows_do_not_show_is_found_too(rows: int) -> None:
    update = torch.zeros(200, 150)
    update[rows, 3] = 1.0
    floor, norm = floor_and_norm(update)
    assert floor == pytest.approx(norm, rel=1e-3)
