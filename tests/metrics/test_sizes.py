"""No metric depends on the unit that weights are counted in, from the smallest numbers of a type to the largest.

Weights of 1e-200 must not read as unchanged because their squares are zero, nor those of 1e300 as infinite.
"""

from __future__ import annotations

import math

import pytest
import torch

from ckptaudit.metrics import matrix_metrics
from ckptaudit.metrics.batch import PairBatch
from ckptaudit.metrics.large import LargePair

SIZES = {
    torch.float64: (-1000, -700, -300, -140, -70, 70, 140, 300, 700, 1000),
    torch.float32: (-100, -60, 60, 100),
    torch.bfloat16: (-100, -60, 60, 100),
    torch.float16: (-6, 6),
}
CASES = [(dtype, power) for dtype, powers in SIZES.items() for power in powers]
DEPENDENT = {"update_spectral_norm": 1, "orthogonality_defect": 0, "orthogonality_defect_in_roundings": 0,
             "inner_product_distortion": 0}  # fmt: skip
"""Metrics that the size is meant to matter to, and by which power of it."""


def pair(shape: tuple[int, int], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    base = torch.randn(shape, generator=random, dtype=torch.float64).clamp(-2, 2)
    base[base.abs() < 0.05] = 0.05
    tuned = base * (1 + 0.02 * torch.randn(shape, generator=random, dtype=torch.float64).clamp(-2, 2))
    return base.to(dtype), tuned.to(dtype)


def values(batch: PairBatch) -> dict[str, float]:
    return {name: float(metric.compute(batch)) for name, metric in matrix_metrics().items()}


@pytest.mark.parametrize(("dtype", "power"), CASES, ids=str)
def test_a_power_of_two_changes_no_metric(dtype, power):
    base, tuned = pair((24, 32), dtype)
    plain = values(PairBatch(base[None], tuned[None]))
    scaled = values(PairBatch((base * 2.0**power)[None], (tuned * 2.0**power)[None]))
    for name, value in plain.items():
        # A blind update is rounded as bf16 is, whose exponents end at 127.
        of_blind = name.endswith("_excess") or name == "unrounded_stable_rank"
        if name not in DEPENDENT and not (of_blind and abs(power) > 100):
            assert scaled[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name
    assert scaled["update_spectral_norm"] == pytest.approx(plain["update_spectral_norm"] * 2.0**power, rel=1e-6)


@pytest.mark.parametrize(("dtype", "power"), [case for case in CASES if case[0] is not torch.float64], ids=str)
@pytest.mark.parametrize("exact", [True, False])
def test_nor_of_a_large_matrix(dtype, power, exact):
    base, tuned = pair((136, 144), dtype)
    plain = values(LargePair(base, tuned, exact=True))
    scaled = LargePair(base * 2.0**power, tuned * 2.0**power, exact=exact)
    for name, metric in matrix_metrics().items():
        if name in DEPENDENT:
            continue
        assert float(metric.compute(scaled)) == pytest.approx(plain[name], rel=6e-3, abs=1e-3), name
        bound = metric.bound(scaled) if metric.bound else None
        if bound is not None and metric.bound_kind == "upper_bound":
            assert float(bound) >= plain[name] * (1 - 6e-3) - 1e-9, name
        if bound is not None and metric.bound_kind == "lower_bound":
            assert float(bound) <= plain[name] * (1 + 6e-3) + 1e-9, name


def test_ordinary_weights_are_counted_in_ones():
    base, tuned = pair((8, 8), torch.float64)
    batch = PairBatch(torch.stack([base, base * 2.0**900]), torch.stack([tuned, tuned * 2.0**900]))
    assert batch.unit[0] == 1.0
    assert batch.unit[1] > 1.0
    assert math.log2(float(batch.unit[1])).is_integer()
    assert torch.equal(batch.base[0], base)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(8, 8), (136, 136)])
def test_numbers_of_the_base_that_are_not_finite_are_counted(value, dtype, shape):
    base, tuned = pair(shape, dtype)
    base[1, 2] = base[3, 3] = value
    metrics = matrix_metrics()
    for batch in (PairBatch(base[None], tuned[None]), LargePair(base, tuned)):
        assert float(metrics["base_nonfinite_entries"].compute(batch)) == 2
        assert float(metrics["nonfinite_entries"].compute(batch)) == 0
