"""Which layers are out of line with the trend of their role."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import theilslopes

from ckptaudit.metrics.depth import depth_outliers, residuals, scores
from ckptaudit.metrics.evidence import RunEvidence
from tests.stale_pairs import decoder, pair_of

ROLE = "model.layers.{}.mlp.up_proj.weight"


def outliers(sizes: list[float]) -> list[str]:
    base = decoder(len(sizes), width=4)
    values = {ROLE.format(i): size for i, size in enumerate(sizes)}
    return [f.tensor for f in depth_outliers(RunEvidence(pair_of(base, base), {"relative_update_norm": values}))]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=3, max_size=40))
def test_the_line_is_scipys(logs: list[float]) -> None:
    x = np.arange(len(logs))
    slope = theilslopes(logs, x).slope
    expected = logs - slope * x - np.median(logs - slope * x)
    assert residuals(list(enumerate(logs))) == pytest.approx(expected.tolist(), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=8, max_size=40), st.floats(-3, 3), st.floats(-1, 1))
def test_neither_level_nor_slope_matters(logs: list[float], level: float, slope: float) -> None:
    moved = [(i, y + level + slope * i) for i, y in enumerate(logs)]
    assert [s for _, s in scores(moved)] == pytest.approx([s for _, s in scores(list(enumerate(logs)))], abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**16), st.integers(8, 80), st.floats(-0.1, 0.1))
def test_no_alarm_where_layers_scatter_by_half(seed: int, layers: int, slope: float) -> None:
    noise = np.random.default_rng(seed).normal(0, 0.5, layers)
    assert not outliers([1e-3 * math.exp(slope * i + e) for i, e in enumerate(noise)])


@pytest.mark.parametrize(("factor", "at"), [(20.0, 0), (20.0, 5), (0.05, 11)])
def test_one_layer_out_of_line_is_named(factor: float, at: int) -> None:
    sizes = [1e-3 * 1.05**i for i in range(12)]
    sizes[at] *= factor
    assert outliers(sizes) == [ROLE.format(at)]


def test_few_layers_and_unchanged_ones_say_nothing() -> None:
    assert not outliers([1e-3] * 6 + [1.0])
    assert not outliers([1e-3] * 9 + [0.0])
