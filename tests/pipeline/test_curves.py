"""The worst matrices in full: which they are, and what stands where there is nothing to decompose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.judging.verdict import Verdict
from ckptaudit.pairing import ModelPair, pair_checkpoints
from ckptaudit.pipeline.curves import POINTS, spectrum_record, worst_matrices
from ckptaudit.results.records import SpectrumRecord

WriteCheckpoint = Callable[..., Path]
Q, K = (f"model.layers.0.self_attn.{role}.weight" for role in ("q_proj", "k_proj"))
CPU = torch.device("cpu")


@pytest.fixture
def pair(write_checkpoint: WriteCheckpoint) -> Callable[[torch.Tensor, torch.Tensor], ModelPair]:
    def made(base: torch.Tensor, tuned: torch.Tensor) -> ModelPair:
        sides = (write_checkpoint(name, {Q: t, K: t.clone()}) for name, t in (("base", base), ("tuned", tuned)))
        return pair_checkpoints(*map(open_checkpoint, sides))

    return made


def verdict(
    worst: str, value: float | None, *, metric: str = "normalized_spectral_shift", outcome: str = "failed"
) -> Verdict:
    return Verdict(
        tuned="t", check="c", subject="layers.0", outcome=outcome, worst=worst, value=value,  # type: ignore[arg-type]
        kind="exact", limit=1e-3, source="s", metric=metric, sign="<=",
    )  # fmt: skip


def row_of(pair: ModelPair) -> SpectrumRecord | None:
    (matrix,) = worst_matrices([verdict(Q, 1.0)], pair, most=1)
    return spectrum_record("t", matrix, CPU)


def random_matrix(m: int = 16, n: int = 24) -> torch.Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(0))


def test_broken_claims_come_first_then_spectra_then_the_farthest(
    pair: Callable[[torch.Tensor, torch.Tensor], ModelPair],
) -> None:
    made = pair(random_matrix(), random_matrix())
    verdicts = [
        verdict(K, 9e-4, outcome="passed"),
        verdict(K, 1e-2, metric="relative_update_norm"),
        verdict(Q, 2e-3),
        verdict(K, None, outcome="error"),
        verdict("no.such.tensor", 1.0),
    ]
    assert [m.name for m in worst_matrices(verdicts, made, most=6)] == [Q, K]
    assert [m.name for m in worst_matrices(verdicts, made, most=1)] == [Q]


@pytest.mark.parametrize("shape", [(160, 200), (200, 160), (160, 160)], ids=["wide", "tall", "square"])
@pytest.mark.parametrize("kind", ["ordinary", "of rank 100", "tied at k", "out of scale"])
def test_a_large_matrix_has_the_curves_of_a_decomposition_of_itself(
    kind: str, shape: tuple[int, int], pair: Callable[[torch.Tensor, torch.Tensor], ModelPair]
) -> None:
    base = random_matrix(*shape)
    if kind == "of rank 100":
        base = base[:, :100] @ random_matrix(100, shape[1])
    if kind == "tied at k":
        base = torch.eye(*shape)
    if kind == "out of scale":
        base = 1e120 * base.double()
    scale = 0.05 * float(base.abs().amax())
    tuned = base + scale * torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(base.dtype)
    row = row_of(pair(base, tuned))
    assert row is not None
    sides = [np.linalg.svd(side.double().numpy(), full_matrices=False) for side in (base, tuned)]
    assert row.base_singular_values == pytest.approx(sides[0].S, rel=1e-9)
    assert row.tuned_singular_values == pytest.approx(sides[1].S, rel=1e-9)
    left = np.degrees(subspace_angles(sides[0].U[:, : row.k], sides[1].U[:, : row.k]))[::-1]
    right = np.degrees(subspace_angles(sides[0].Vh[: row.k].T, sides[1].Vh[: row.k].T))[::-1]
    assert row.left_angles == pytest.approx(left, abs=1e-4)
    assert row.right_angles == pytest.approx(right, abs=1e-4)


def test_a_matrix_with_a_nan_has_no_spectrum(pair: Callable[[torch.Tensor, torch.Tensor], ModelPair]) -> None:
    tuned = random_matrix()
    tuned[3, 4] = float("nan")
    assert row_of(pair(random_matrix(), tuned)) is None


def test_a_direction_that_the_tuned_matrix_lost_reads_ninety_degrees(
    pair: Callable[[torch.Tensor, torch.Tensor], ModelPair],
) -> None:
    row = row_of(pair(random_matrix(), torch.zeros(16, 24)))
    assert row is not None
    assert row.left_angles == row.right_angles == (90.0, 90.0)
    assert set(row.tuned_singular_values) == {0.0}


def test_a_zero_base_has_no_direction_to_turn(pair: Callable[[torch.Tensor, torch.Tensor], ModelPair]) -> None:
    row = row_of(pair(torch.zeros(16, 24), random_matrix()))
    assert row is not None
    assert row.left_angles == ()


def test_a_long_curve_is_thinned_and_keeps_both_ends(
    pair: Callable[[torch.Tensor, torch.Tensor], ModelPair],
) -> None:
    row = row_of(pair(random_matrix(600, 620), random_matrix(600, 620) * 1.01))
    assert row is not None
    assert len(row.ranks) <= POINTS
    assert (row.ranks[0], row.ranks[-1]) == (1, 600)
    assert len(row.ranks) == len(row.base_singular_values) == len(row.tuned_singular_values)


def test_a_file_that_has_gone_costs_the_curve_and_not_the_page(
    pair: Callable[[torch.Tensor, torch.Tensor], ModelPair],
) -> None:
    made = pair(random_matrix(), random_matrix())
    (Path(made.tuned.path) / "model.safetensors").unlink()
    assert row_of(made) is None
