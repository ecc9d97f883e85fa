"""The update against a Fisher diagonal and an earlier step: closed forms, chance, and an oracle in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.metrics.conftest import MeasureWhole
from tests.metrics.test_gradients import ENTRIES, drawn, flat, plus

LARGE = {"model.layers.0.mlp.down_proj.weight": (300, 400)}


def normal(seed: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=random, dtype=torch.float64) for name, shape in LARGE.items()}


@settings(max_examples=15)
@given(seed=st.integers(0, 1000))
def test_fisher_quantities_are_what_numpy_gives(measure_whole: MeasureWhole, seed: int) -> None:
    base, step = drawn(seed), drawn(seed + 1)
    fisher = {name: w.square() for name, w in drawn(seed + 2).items()}
    f, d = flat(fisher), flat(step)
    order = np.argsort(-f)
    top = (d[order[0]] ** 2) * min(1.0, 0.01 * ENTRIES) / (d @ d)
    ratio = measure_whole("fisher_weighted_ratio", base, plus(base, step), fisher=fisher)
    share = measure_whole("fisher_top_share", base, plus(base, step), fisher=fisher)
    assert ratio.value == pytest.approx((f @ d**2) / (d @ d) / f.mean(), rel=1e-9)
    assert share.value == pytest.approx(top, rel=1e-9)


def test_an_update_blind_to_the_fisher_information_reads_one_and_one_hundredth(measure_whole: MeasureWhole) -> None:
    base, fisher = normal(0), {name: w.square() for name, w in normal(1).items()}
    ratio = measure_whole("fisher_weighted_ratio", base, plus(base, normal(2)), fisher=fisher)
    share = measure_whole("fisher_top_share", base, plus(base, normal(2)), fisher=fisher)
    # Standard errors over 120,000 entries: about 0.006 and 0.0005.
    assert ratio.value == pytest.approx(1.0, abs=0.025)
    assert share.value == pytest.approx(0.01, abs=0.002)


def test_an_update_on_the_sensitive_hundredth_alone_reads_one(measure_whole: MeasureWhole) -> None:
    base, fisher = normal(0), {name: w.square() for name, w in normal(1).items()}
    (name,) = LARGE
    step = {name: (fisher[name] >= fisher[name].flatten().quantile(0.99)).double()}
    assert measure_whole("fisher_top_share", base, plus(base, step), fisher=fisher).value == pytest.approx(
        1.0, rel=1e-3
    )


def test_equal_sensitivity_everywhere_reads_as_chance_does(measure_whole: MeasureWhole) -> None:
    base, even = normal(0), {name: torch.ones(shape) for name, shape in LARGE.items()}
    for metric, value in (("fisher_weighted_ratio", 1.0), ("fisher_top_share", 0.01)):
        assert measure_whole(metric, base, plus(base, normal(2)), fisher=even).value == pytest.approx(
            value, rel=1e-9
        )


def test_a_diagonal_that_no_square_has_is_refused(measure_whole: MeasureWhole) -> None:
    measured = measure_whole("fisher_top_share", drawn(0), plus(drawn(0), drawn(1)), fisher=drawn(2))
    assert measured.value is None
    assert "negative entries" in measured.remark


@pytest.mark.parametrize("kept", [1.5, 1.0, 0.7, 0.0, -0.5])
def test_alignment_kept_is_the_part_left_along_its_step(measure_whole: MeasureWhole, kept: float) -> None:
    base, step = drawn(0), drawn(1)
    measured = measure_whole("alignment_kept", base, plus(base, step, kept), aligned=plus(base, step))
    assert measured.value == pytest.approx(kept, abs=1e-12)


@settings(max_examples=15)
@given(seed=st.integers(0, 1000))
def test_alignment_quantities_are_what_numpy_gives(measure_whole: MeasureWhole, seed: int) -> None:
    base, first, second = drawn(seed), drawn(seed + 1), drawn(seed + 2)
    aligned = plus(base, first)
    a, f = flat(first), flat(second)
    undone = np.sort(np.maximum(0.0, -a * f))[::-1]
    half = undone.sum() / 2
    full = int((undone.cumsum() < half).sum())
    expected = {
        "alignment_kept": 1 + (a @ f) / (a @ a),
        "alignment_direction_share": (a @ f) ** 2 / (a @ a) / (f @ f),
        "alignment_coordinate_overlap": np.abs(a * f).sum() / np.linalg.norm(a) / np.linalg.norm(f),
        "undoing_half_share": (full + (half - undone[:full].sum()) / undone[full]) / ENTRIES,
    }
    for metric, value in expected.items():
        measured = measure_whole(metric, base, plus(aligned, second), aligned=aligned)
        assert measured.value == pytest.approx(value, rel=1e-6, abs=1e-12), metric


def test_unrelated_normal_steps_read_what_chance_gives(measure_whole: MeasureWhole) -> None:
    base, aligned = normal(0), plus(normal(0), normal(1))
    tuned = plus(aligned, normal(2))
    overlap = measure_whole("alignment_coordinate_overlap", base, tuned, aligned=aligned)
    direction = measure_whole("alignment_direction_share", base, tuned, aligned=aligned)
    half = measure_whole("undoing_half_share", base, tuned, aligned=aligned)
    assert overlap.value == pytest.approx(2 / np.pi, abs=0.01)
    assert direction.value is not None
    assert direction.value < 20 / 120_000
    # The share of the largest products of two normal numbers that sum to half, by simulation apart from this code.
    product = np.random.default_rng(0).normal(size=(2, 1_000_000)).prod(0)
    undone = np.sort(np.maximum(0.0, product))[::-1]
    assert half.value == pytest.approx(float((undone.cumsum() < undone.sum() / 2).mean()), rel=0.03)


def test_an_undoing_spread_evenly_takes_half_of_the_weights(measure_whole: MeasureWhole) -> None:
    base = drawn(0)
    step = {name: torch.ones_like(w) for name, w in base.items()}
    even = measure_whole("undoing_half_share", base, base, aligned=plus(base, step))
    assert even.value == pytest.approx(0.5, rel=1e-6)
    onward = measure_whole("undoing_half_share", base, plus(base, step, 2.0), aligned=plus(base, step))
    assert (onward.value, onward.remark) == (0.0, "nothing is undone")


def test_without_an_alignment_step_there_is_no_direction(measure_whole: MeasureWhole) -> None:
    base = drawn(0)
    for metric in ("alignment_kept", "alignment_direction_share", "alignment_coordinate_overlap"):
        measured = measure_whole(metric, base, plus(base, drawn(1)), aligned=base)
        assert measured.value is None
        assert "there is no aligned direction" in measured.remark
