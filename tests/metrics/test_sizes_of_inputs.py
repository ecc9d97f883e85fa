"""Gradients of any size span what they span, and numbers that are none are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.metrics.groups import group_metric_of, measure_group
from ckptaudit.metrics.measurement import Measurement
from ckptaudit.pairing import pair_checkpoints
from ckptaudit.pairing.auxiliary import open_auxiliary
from ckptaudit.pairing.runs import Run

NAMES = ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight")
SHARES = ("retain_tangential_share", "gradient_concentration", "gradient_top_share", "gradient_top_ratio")


def drawn(seed: int, *lead: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {name: torch.randn(*lead, 6, 8, generator=random, dtype=torch.float64) for name in NAMES}


def times(tensors: dict[str, torch.Tensor], size: float) -> dict[str, torch.Tensor]:
    return {name: tensor * size for name, tensor in tensors.items()}


def measured(
    folder: Path, metric: str, base: dict[str, torch.Tensor], step: dict[str, torch.Tensor],
    gradients: dict[str, torch.Tensor],
) -> Measurement:  # fmt: skip
    folder.mkdir()
    files = {"base": base, "tuned": {name: base[name] + step[name] for name in base}, "gradients": gradients}
    for name, tensors in files.items():
        save_file(tensors, folder / f"{name}.safetensors")
    opened = {name: open_checkpoint(folder / f"{name}.safetensors") for name in ("base", "tuned")}
    pair = pair_checkpoints(opened["base"], opened["tuned"])
    (kind,) = group_metric_of(metric).needs
    auxiliary = open_auxiliary({kind: str(folder / "gradients.safetensors")}, opened["base"])
    run = Run("", "tuned", pair)
    return measure_group(
        group_metric_of(metric), "model", ("all",), run, list(pair.aligned), auxiliary, torch.device("cpu")
    )


@pytest.mark.parametrize("size", [1e-300, 1e-160, 1e-100, 1e100, 1e160, 1e300])
@pytest.mark.parametrize("metric", SHARES)
def test_shares_do_not_depend_on_the_size_of_gradients(metric, size, tmp_path):
    base, step, gradients = drawn(0), drawn(1), drawn(2, 9)
    plain = measured(tmp_path / "a", metric, base, step, gradients)
    scaled = measured(tmp_path / "b", metric, base, step, times(gradients, size))
    assert plain.value is not None
    assert scaled.value == pytest.approx(plain.value, rel=1e-9)


@pytest.mark.parametrize("size", [1e-300, 1e-160, 1e160, 1e300])
@pytest.mark.parametrize("metric", SHARES)
def test_nor_on_that_of_weights(metric, size, tmp_path):
    base, step, gradients = drawn(0), drawn(1), drawn(2, 9)
    plain = measured(tmp_path / "a", metric, base, step, gradients)
    scaled = measured(tmp_path / "b", metric, times(base, size), times(step, size), gradients)
    assert scaled.value == pytest.approx(plain.value, rel=1e-9)


@pytest.mark.parametrize("size", [1e-160, 1e160])
def test_the_change_of_a_loss_grows_with_the_gradients(size, tmp_path):
    base, step, gradients = drawn(0), drawn(1), drawn(2, 9)
    plain = measured(tmp_path / "a", "retain_loss_change", base, step, gradients)
    scaled = measured(tmp_path / "b", "retain_loss_change", base, step, times(gradients, size))
    assert scaled.value == pytest.approx(plain.value * size, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.bool, torch.int32], ids=str)
def test_gradients_that_are_no_floating_point_numbers_are_refused_by_name(dtype, tmp_path):
    gradients = {name: torch.ones(9, 6, 8).to(dtype) for name in NAMES}
    found = measured(tmp_path / "a", "retain_tangential_share", drawn(0), drawn(1), gradients)
    assert found.value is None
    assert "is stored as" in found.remark
