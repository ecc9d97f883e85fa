"""What an update moves all singular values by at most, once what turns the leading subspaces is turned back."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ckptaudit.linalg.leading import Leading, leading
from ckptaudit.linalg.rotation_bounds import images
from ckptaudit.linalg.shift_bounds import turned_back
from tests.linalg.made import with_spectrum

K = 20
HEAVY = torch.arange(1, 161, dtype=torch.float64).pow(-0.5)
SHAPES = [(160, 300), (300, 160), (160, 160)]


def bound_and_size(weight: Tensor, update: Tensor) -> tuple[float, float, Leading]:
    base = leading(weight, K)
    assert base is not None
    size = float(torch.linalg.matrix_norm(update.double())) * (1 + 1e-7)
    return turned_back(images(update.float(), base, k=K, size=size), base, k=K), size, base


def noise(shape: tuple[int, int], size: float) -> Tensor:
    step = torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (size * step / torch.linalg.matrix_norm(step)).float()


@pytest.mark.parametrize("shape", SHAPES)
def test_an_update_that_turns_the_leading_directions_alone_hardly_moves_a_singular_value(
    shape: tuple[int, int],
) -> None:
    weight = with_spectrum(HEAVY.masked_fill(torch.arange(160) >= K, 1e-3), shape)
    base = leading(weight, K)
    assert base is not None
    u, v = base.left[:, :K].double(), base.right[:, :K].double()
    across = noise(shape, 1e-3).double()
    across = across - u @ (u.T @ across)
    update = (across @ v @ v.T).float()
    bound, size, _ = bound_and_size(weight, update)
    moved = float(torch.linalg.vector_norm(torch.linalg.svdvals(weight + update) - torch.linalg.svdvals(weight)))
    assert moved <= bound < 0.05 * size


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1e-4, 1e-2, 1.0])
def test_noise_loses_what_lies_in_the_leading_directions_as_far_as_these_stand_out(
    shape: tuple[int, int], size: float
) -> None:
    weight = with_spectrum(HEAVY, shape)
    update = noise(shape, size)
    bound, most, base = bound_and_size(weight, update)
    moved = torch.linalg.vector_norm(torch.linalg.svdvals(weight + update.double()) - torch.linalg.svdvals(weight))
    assert float(moved) <= bound <= most
    if size < 1e-3:
        # Without rounding and the terms of second order.
        c = K + 1
        u, v, s = base.left[:, :c].double(), base.right[:, :c].double(), base.s
        right, left, inside = update.double() @ v, update.double().T @ u, u.T @ update.double() @ v
        a, b = (x.square().sum(0) - inside.square().sum(side) for side, x in enumerate((right, left)))
        gone = float(((1 - (s[c] / s[:c]).square()) * (a + b)).sum())
        assert bound == pytest.approx(math.sqrt(most**2 - gone), rel=0.02)
        assert bound < 0.98 * most


def test_a_flat_base_and_one_whose_ties_go_on_leave_mirskys_bound() -> None:
    tied = with_spectrum(torch.ones(160, dtype=torch.float64), (160, 300))
    bound, size, _ = bound_and_size(tied, noise((160, 300), 1e-3))
    assert bound == size
    flat = with_spectrum(1 + 1e-4 * torch.arange(160, 0, -1, dtype=torch.float64), (160, 300))
    bound, size, _ = bound_and_size(flat, noise((160, 300), 1e-3))
    assert 0.97 * size < bound <= size
