"""A number says how it was computed, and no float64 decomposition is farther from it than the error it states."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.measurement.jobs import Computing, Job, Unit
from ckptaudit.measurement.scheduler import measure
from ckptaudit.metrics import Measurement, base_facts
from ckptaudit.pairing import pair_checkpoints
from tests.metrics.adversarial import Matrix, base_of, stored, update_of

NAME = "layers.0.q_proj.weight"
CPU = torch.device("cpu")
SIZES = {"gentle": 4e-4, "large": 3e-2}

# Limits that no bound keeps, so that the gate computes.
UNSETTLED = {
    "normalized_spectral_shift": 0.0,
    "principal_rotation_left": 0.0,
    "rms_rotation_left": 0.0,
    "rms_rotation_right": 0.0,
    "update_spectral_norm": math.inf,
    "update_stable_rank": 0.0,
}
NAMES = frozenset({*UNSETTLED, "relative_update_norm", "off_principal_energy", "off_principal_excess"})
METHODS = {
    "exact": dict.fromkeys(UNSETTLED, "gram"),
    "gate": {
        **dict.fromkeys(UNSETTLED, "iterative"),
        "normalized_spectral_shift": "gram",
    },
}

WriteCheckpoint = Callable[..., Path]


def reference(w0: Matrix, w1: Matrix) -> dict[str, float]:
    d, k = w1 - w0, min(w0.shape) // 8
    (u0, s0, v0), (u1, s1, v1) = (np.linalg.svd(w, full_matrices=False) for w in (w0, w1))
    top = int((s1 > 0.9 * s0[k - 1]).sum())
    left, right = subspace_angles(u0[:, :k], u1[:, :top]), subspace_angles(v0.T[:, :k], v1.T[:, :top])
    rms = [np.degrees(np.arcsin(np.sqrt((np.sin(x) ** 2).mean()))) for x in (left, right)]
    norm, largest = np.linalg.norm(d), np.linalg.norm(d, 2)
    inside = np.linalg.norm(u0[:, :k].T @ d @ v0.T[:, :k])
    return {
        "normalized_spectral_shift": np.linalg.norm(s1 - s0) / np.linalg.norm(w0),
        "principal_rotation_left": np.degrees(left).max(),
        "rms_rotation_left": rms[0],
        "rms_rotation_right": rms[1],
        "update_spectral_norm": largest,
        "update_stable_rank": (norm / largest) ** 2,
        "relative_update_norm": norm / np.linalg.norm(w0),
        "off_principal_energy": 1 - (inside / norm) ** 2,
    }


@pytest.mark.parametrize("mode", METHODS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(160, 300), (300, 160)])
def test_a_value_is_as_close_to_float64_as_it_says(
    shape: tuple[int, int],
    size: str,
    mode: str,
    write_checkpoint: WriteCheckpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(base_facts, "ITERATIVE_SIDE", 64)
    random = np.random.default_rng(0)
    before = base_of("heavy", shape, random)
    step = update_of("noise", before, random) + update_of("low rank", before, random)
    sides = stored(before, before + SIZES[size] * step, torch.float32)
    rows = measured(write_checkpoint, *sides, Computing(CPU, sufficient=UNSETTLED if mode == "gate" else {}))
    assert {name: rows[name].method for name in UNSETTLED} == METHODS[mode]
    assert rows["relative_update_norm"].method == "direct"
    assert rows["relative_update_norm"].error is None
    for name, expected in reference(*(side.double().numpy() for side in sides)).items():
        value, error = rows[name].value, rows[name].error
        assert rows[name].kind == "exact"
        assert value is not None
        assert (error is None) is (rows[name].method == "direct"), name
        assert abs(value - expected) <= (error or 0.0) + 1e-7 * expected, name
        assert (error or 0.0) < max(0.1 * expected, 0.01 if "rotation" in name else 0.0), name


def test_an_excess_has_the_error_of_what_it_is_a_difference_of(write_checkpoint: WriteCheckpoint) -> None:
    random = np.random.default_rng(0)
    before = base_of("heavy", (160, 300), random)
    sides = stored(before, before + 4e-4 * update_of("noise", before, random), torch.float32)
    rows = measured(write_checkpoint, *sides, Computing(CPU))
    assert rows["off_principal_energy"].error is not None
    assert rows["off_principal_excess"].error == pytest.approx(rows["off_principal_energy"].error, rel=1e-3)


def test_small_matrices_are_measured_from_the_definition(write_checkpoint: WriteCheckpoint) -> None:
    random = np.random.default_rng(0)
    before = base_of("heavy", (16, 24), random)
    sides = stored(before, before + 1e-3 * update_of("noise", before, random), torch.float32)
    rows = measured(write_checkpoint, *sides, Computing(CPU))
    assert {(row.method, row.error) for row in rows.values()} == {("direct", None)}


def measured(
    write: WriteCheckpoint, base: torch.Tensor, tuned: torch.Tensor, computing: Computing
) -> dict[str, Measurement]:
    pair = pair_checkpoints(open_checkpoint(write("b", {NAME: base})), open_checkpoint(write("t", {NAME: tuned})))
    rows = measure([Job(t, NAMES, Unit("run", "layers.0")) for t in pair.aligned], computing)
    return {row.metric: row for row in rows}
