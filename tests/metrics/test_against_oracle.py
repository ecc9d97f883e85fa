"""Every metric against an independent float64 computation, at the scale of reinforcement learning and beyond."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ckptaudit.measurement.jobs import Computing, Job, Unit
from ckptaudit.measurement.scheduler import measure
from ckptaudit.metrics import PairBatch, matrix_metrics
from ckptaudit.pairing import pair_checkpoints
from tests.metrics.oracle import ORACLE, Matrix

# Angles between larger spaces are defined by the package itself; test_rotation.py holds them to planted truth,
# test_rms_rotation.py to SciPy, and test_excesses.py what is set against a blind update to a reference of its own.
OWN_DEFINITIONS = {
    "principal_rotation_left",
    "principal_rotation_right",
    "rms_rotation_left",
    "rms_rotation_right",
    "low_magnitude_excess",
    "unchanged_rows",
    "principal_mask_excess",
    "off_principal_excess",
    "unrounded_stable_rank",
    "spectral_shift_ratio",
}

SHAPES = [(64, 96), (96, 64), (48, 48), (16, 200)]
SIZES = [1e-6, 4e-4, 1e-2]


def heavy_tailed(shape: tuple[int, int], seed: int) -> Matrix:
    """Singular values 1 / sqrt(i), between random orthonormal bases: no two of them nearly coincide."""
    random = np.random.default_rng(seed)
    r = min(shape)
    u, v = (np.linalg.qr(random.standard_normal((n, r)))[0] for n in shape)
    return np.asarray((u / np.sqrt(np.arange(1, r + 1))) @ v.T)


def tuned_by(base: Matrix, size: float, seed: int) -> Matrix:
    noise = np.random.default_rng(seed).standard_normal(base.shape)
    return np.asarray(base + size * np.linalg.norm(base) / np.linalg.norm(noise) * noise)


def test_every_metric_has_an_oracle() -> None:
    assert set(ORACLE) == set(matrix_metrics()) - OWN_DEFINITIONS


@pytest.mark.parametrize("name", sorted(ORACLE))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
def test_float32_weights_give_the_float64_figure(
    name: str, shape: tuple[int, int], size: float, device: str
) -> None:
    base = heavy_tailed(shape, 1).astype(np.float32)
    tuned = tuned_by(base.astype(np.float64), size, 2).astype(np.float32)
    batch = PairBatch(*(torch.from_numpy(w)[None].to(device) for w in (base, tuned)))
    if name.endswith("overlap") and not batch.changed.any():
        pytest.skip("nothing changed visibly: the value is defined, not computed")
    expected = ORACLE[name](base.astype(np.float64), tuned.astype(np.float64))
    # The contract asks for 1 %; float64 on both sides gives far more, and anything less hides an error.
    assert matrix_metrics()[name].compute(batch).item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("run", ["rlvr-gentle", "rlvr", "sft"])
def test_the_bundled_pairs_read_as_the_independent_script_says(run: str, fixture_pairs: Path) -> None:
    from ckptaudit.checkpoints import open_checkpoint

    pair = pair_checkpoints(open_checkpoint(fixture_pairs / "base"), open_checkpoint(fixture_pairs / run))
    standing = frozenset(name for name, metric in matrix_metrics().items() if metric.standing)
    rows = measure(
        [Job(t, standing, Unit("run", t.place.subject)) for t in pair.aligned], Computing(torch.device("cpu"))
    )
    values = {(m.tensor, m.metric): m.value for m in rows}
    reference = json.loads((fixture_pairs / f"{run}.reference.json").read_text())["tensors"]
    compared = [
        (row["tensor"], metric, row[metric]) for row in reference for metric in row if metric in matrix_metrics()
    ]
    assert len(compared) >= 12 * 28
    for tensor, metric, expected in compared:
        assert values[tensor, metric] == pytest.approx(expected, rel=1e-6, abs=1e-9), (tensor, metric)


@pytest.mark.parametrize("name", sorted(matrix_metrics()))
def test_every_metric_says_what_it_is(name: str) -> None:
    metric = matrix_metrics()[name]
    assert metric.unit
    assert metric.formula
    assert metric.source
    assert metric.compute.__doc__
