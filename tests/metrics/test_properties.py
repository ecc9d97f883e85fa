"""What must hold for every pair: invariances, ranges, and the theorem behind the bound."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ckptaudit.metrics import PairBatch, matrix_metrics

SPECTRAL = [name for name, metric in matrix_metrics().items() if metric.cost == "spectrum" and "mask" not in name]
OF_THE_LAYER = ["orthogonality_defect", "orthogonality_defect_in_roundings", "inner_product_distortion"]
SCALE_FREE = [name for name in matrix_metrics() if name not in ("update_spectral_norm", *OF_THE_LAYER)]
ENTRYWISE = [name for name in matrix_metrics() if matrix_metrics()[name].cost != "spectrum"]

seeds = st.integers(0, 10_000)
shapes = st.sampled_from([(16, 16), (16, 24), (24, 16), (9, 40)])
sizes = st.sampled_from([1e-5, 1e-3, 0.1])


def pair(seed: int, shape: tuple[int, int], size: float) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    base, noise = (torch.randn(shape, generator=random, dtype=torch.float64) for _ in range(2))
    return base, base + size * noise


def values(names: list[str], base: Tensor, tuned: Tensor) -> dict[str, float]:
    batch = PairBatch(base[None], tuned[None])
    return {name: float(matrix_metrics()[name].compute(batch).item()) for name in names}


def close(seen: dict[str, float], expected: dict[str, float]) -> None:
    assert seen == {name: pytest.approx(v, rel=1e-6, abs=1e-6) for name, v in expected.items()}


def orthogonal(n: int, seed: int) -> Tensor:
    return torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q


@settings(max_examples=25)
@given(seeds, shapes, sizes)
def test_an_orthogonal_change_of_coordinates_changes_no_spectral_metric(
    seed: int, shape: tuple[int, int], size: float
) -> None:
    base, tuned = pair(seed, shape, size)
    left, right = orthogonal(shape[0], seed + 1), orthogonal(shape[1], seed + 2)
    close(values(SPECTRAL, left @ base @ right, left @ tuned @ right), values(SPECTRAL, base, tuned))


@settings(max_examples=25)
@given(seeds, shapes, sizes, st.sampled_from([2.0**-20, 2.0**-3, 2.0**20]))
def test_scaling_both_sides_changes_nothing_but_the_spectral_norm(
    seed: int, shape: tuple[int, int], size: float, scale: float
) -> None:
    base, tuned = pair(seed, shape, size)
    close(values(SCALE_FREE, scale * base, scale * tuned), values(SCALE_FREE, base, tuned))


@settings(max_examples=25)
@given(seeds, shapes, sizes)
def test_permuting_rows_changes_nothing(seed: int, shape: tuple[int, int], size: float) -> None:
    base, tuned = pair(seed, shape, size)
    order = torch.randperm(shape[0], generator=torch.Generator().manual_seed(seed))
    close(values(list(matrix_metrics()), base[order], tuned[order]), values(list(matrix_metrics()), base, tuned))


@settings(max_examples=25)
@given(seeds, shapes, sizes)
def test_transposing_swaps_left_and_right(seed: int, shape: tuple[int, int], size: float) -> None:
    base, tuned = pair(seed, shape, size)
    # A wide layer loses directions and a tall one does not: inner products are not the same both ways.
    names = [name for name in SPECTRAL if name != "inner_product_distortion"]
    here, there = values(names, base, tuned), values(names, base.T, tuned.T)
    swapped = {
        name.replace("left", "*").replace("right", "left").replace("*", "right"): v for name, v in there.items()
    }
    close(here, swapped)


@settings(max_examples=25)
@given(seeds, shapes, sizes)
def test_angles_are_the_same_both_ways_round(seed: int, shape: tuple[int, int], size: float) -> None:
    names = [name for name in matrix_metrics() if name.startswith("principal_angle")]
    base, tuned = pair(seed, shape, size)
    close(values(names, base, tuned), values(names, tuned, base))


@settings(max_examples=40)
@given(seeds, shapes, st.sampled_from([0.0, 1e-12, 1e-5, 1e-3, 10.0]))
def test_every_value_lies_in_its_range(seed: int, shape: tuple[int, int], size: float) -> None:
    seen = values(list(matrix_metrics()), *pair(seed, shape, size))
    for name, number in seen.items():
        assert number >= (-1 if matrix_metrics()[name].scale == "difference" else 0)
        if "angle" in name or "rotation" in name:
            assert number <= 90
        if name.endswith(("overlap", "sparsity", "gap", "off_principal_energy")):
            assert number <= 1
    assert seen["update_stable_rank"] <= min(shape) * (1 + 1e-12)
    assert size == 0 or seen["update_stable_rank"] >= 1 - 1e-12


@settings(max_examples=25)
@given(st.lists(seeds, min_size=2, max_size=4), shapes, sizes)
def test_a_batch_is_its_matrices_one_by_one(many: list[int], shape: tuple[int, int], size: float) -> None:
    pairs = [pair(seed, shape, size) for seed in many]
    batch = PairBatch(torch.stack([b for b, _ in pairs]), torch.stack([t for _, t in pairs]))
    together = {name: metric.compute(batch).tolist() for name, metric in matrix_metrics().items()}
    for i, one in enumerate(pairs):
        close({name: rows[i] for name, rows in together.items()}, values(list(matrix_metrics()), *one))


@settings(max_examples=120)
@given(
    seeds,
    st.sampled_from(["random", "rank one", "identity", "zero base", "zero update", "aligned", "bf16"]),
    st.sampled_from([1e-30, 1e-8, 1.0, 1e30]),
    st.sampled_from([1e-14, 1e-6, 1e-2, 10.0]),
)
def test_the_spectral_shift_never_exceeds_its_bound(seed: int, kind: str, scale: float, size: float) -> None:
    base, tuned = pair(seed, (16, 24), size)
    if kind == "rank one":
        base, tuned = (torch.outer(w[:, 0], w[0]) for w in (base, tuned))
    elif kind == "identity":
        base = torch.eye(16, 24, dtype=torch.float64)
        tuned = base * (1 + size)
    elif kind == "zero base":
        base = torch.zeros_like(base)
    elif kind == "zero update":
        tuned = base.clone()
    elif kind == "aligned":
        # The update along the singular vectors themselves: here the bound is an equality.
        tuned = base * (1 + size)
    base, tuned = scale * base, scale * tuned
    if kind == "bf16":
        base, tuned = base.bfloat16().double(), tuned.bfloat16().double()
    metric = matrix_metrics()["normalized_spectral_shift"]
    assert metric.upper_bound is not None
    batch = PairBatch(base[None], tuned[None])
    found = metric.upper_bound(batch)
    assert found is not None
    exact, bound = metric.compute(batch).item(), found.item()
    assert math.isfinite(bound)
    # Both sides are rounded; the decomposition's own error, relative to the weights, is not the bound's to cover.
    assert exact <= bound + 64 * torch.finfo(torch.float64).eps
