"""Where a definition divides by nothing, the value is defined and written down here."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ckptaudit.metrics import PairBatch, matrix_metrics


def value(name: str, base: Tensor, tuned: Tensor) -> float:
    return float(matrix_metrics()[name].compute(PairBatch(base[None], tuned[None])).item())


def sample(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


ZERO_UPDATE = {
    "update_sparsity": 1.0,
    "changed_entries": 0.0,
    "differing_entries": 0.0,
    "relative_update_norm": 0.0,
    "nonfinite_entries": 0.0,
    "normalized_spectral_shift": 0.0,
    "principal_mask_overlap": 0.5,
    "low_magnitude_overlap": 0.5,
    "off_principal_energy": 1 - 2**2 / (16 * 24),
    "off_principal_energy_ratio": 1.0,
    "update_spectral_norm": 0.0,
    "update_stable_rank": 0.0,
    "update_hill_alpha": 0.0,
    **{f"principal_angle_{side}_{how}": 0.0 for side in ("left", "right") for how in ("max", "mean")},
    "principal_rotation_left": 0.0,
    "principal_rotation_right": 0.0,
}


@pytest.mark.parametrize("name", sorted(ZERO_UPDATE))
def test_a_zero_update(name: str) -> None:
    weight = sample(16, 24)
    assert value(name, weight, weight) == pytest.approx(ZERO_UPDATE[name], abs=1e-6)


FROM_ZERO = {
    "relative_update_norm": 1.0,
    "normalized_spectral_shift": 1.0,
    "update_sparsity": 0.0,
    "principal_mask_overlap": 0.5,
    "principal_angle_left_max": 0.0,
    "principal_rotation_right": 0.0,
    "principal_gap": 0.0,
}


@pytest.mark.parametrize("name", sorted(FROM_ZERO))
def test_a_base_that_was_zero(name: str) -> None:
    assert value(name, torch.zeros(16, 24, dtype=torch.float64), sample(16, 24)) == FROM_ZERO[name]


@pytest.mark.parametrize("name", sorted(matrix_metrics()))
@pytest.mark.parametrize(
    ("base", "tuned"),
    [
        pytest.param(torch.zeros(8, 8), torch.zeros(8, 8), id="both zero"),
        pytest.param(torch.ones(8, 8), torch.zeros(8, 8), id="tuned to zero"),
        pytest.param(torch.ones(8, 8), 2 * torch.ones(8, 8), id="rank one"),
        pytest.param(torch.eye(8), torch.eye(8) + 0.01, id="all singular values equal"),
        pytest.param(torch.ones(1, 5), torch.full((1, 5), 1.01), id="one row"),
        pytest.param(torch.ones(5, 1), torch.full((5, 1), 1.01), id="one column"),
        pytest.param(torch.ones(1, 1), torch.zeros(1, 1), id="one entry"),
        pytest.param(torch.full((8, 9), 1e-30), torch.full((8, 9), 2e-30), id="tiny"),
        pytest.param(torch.full((8, 9), 1e30), torch.full((8, 9), 2e30), id="huge"),
        pytest.param(torch.eye(8).bfloat16(), torch.eye(8).half(), id="bf16 to fp16"),
    ],
)
def test_no_input_gives_anything_but_a_number(name: str, base: Tensor, tuned: Tensor) -> None:
    assert math.isfinite(value(name, base, tuned))


def test_a_direction_that_the_tuned_matrix_lost_reads_ninety_degrees() -> None:
    base = torch.zeros(16, 16, dtype=torch.float64)
    base[0, 0], base[1, 1] = 2.0, 1.0
    tuned = base.clone()
    tuned[1, 1] = 0.0
    assert value("principal_angle_left_max", base, tuned) == pytest.approx(90.0)
    assert value("principal_angle_left_mean", base, tuned) == pytest.approx(45.0)


def test_ties_at_the_threshold_enter_in_order_of_position() -> None:
    base = torch.ones(2, 4)
    tuned = base.clone()
    tuned[0, 0] = tuned[0, 3] = tuned[1, 0] = 2.0
    # All magnitudes are equal: the lower half is the first row, where two of the three changes lie.
    assert value("low_magnitude_overlap", base, tuned) == pytest.approx(2 / 3)


def test_half_a_bf16_step_is_invisible_and_a_whole_one_is_not() -> None:
    base = torch.ones(1, 2)
    tuned = torch.tensor([[1 + 2**-9, 1 + 2**-7]])
    assert value("changed_entries", base, tuned) == 1
    assert value("differing_entries", base, tuned) == 2


def test_the_definitions_by_hand_on_a_diagonal() -> None:
    base, tuned = torch.diag(torch.tensor([3.0, 4.0])), torch.diag(torch.tensor([3.0, 5.0]))
    assert value("normalized_spectral_shift", base, tuned) == pytest.approx(1 / 5)
    assert value("relative_update_norm", base, tuned) == pytest.approx(1 / 5)
    assert value("update_spectral_norm", base, tuned) == pytest.approx(1)
    assert value("update_stable_rank", base, tuned) == pytest.approx(1)
    assert value("update_sparsity", base, tuned) == pytest.approx(3 / 4)
    # The leading direction is the second axis on both sides, and all of the update lies on it.
    assert value("off_principal_energy", base, tuned) == pytest.approx(0)
    assert value("principal_angle_left_max", base, tuned) == pytest.approx(0)
    assert value("principal_gap", base, tuned) == pytest.approx(1 / 4)
