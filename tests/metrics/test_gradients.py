"""The update against gradients: closed forms, chance, laws, and an oracle in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ckptaudit.metrics import Measurement
from tests.metrics.conftest import MeasureWhole

SHAPES = {"model.layers.0.self_attn.q_proj.weight": (6, 8), "model.layers.1.mlp.down_proj.weight": (5, 7)}
ENTRIES = 6 * 8 + 5 * 7
Weights = dict[str, Tensor]


def drawn(seed: int, *lead: int) -> Weights:
    random = torch.Generator().manual_seed(seed)
    return {n: torch.randn(*lead, *shape, generator=random, dtype=torch.float64) for n, shape in SHAPES.items()}


def plus(base: Weights, step: Weights, size: float = 1.0) -> Weights:
    return {name: base[name] + size * step[name] for name in base}


def flat(weights: Weights) -> np.ndarray:
    """`[samples, entries]`, or `[entries]` where there are no samples."""
    return np.concatenate([w.reshape(*w.shape[:-2], -1).numpy() for w in weights.values()], axis=-1)


def split(vector: np.ndarray) -> Weights:
    parts = np.split(vector, [48], axis=-1)
    return {n: torch.from_numpy(p.reshape(s)) for (n, s), p in zip(SHAPES.items(), parts, strict=True)}


def test_an_update_of_which_thirty_percent_lie_in_the_span_reads_so(measure_whole: MeasureWhole) -> None:
    base, gradients = drawn(0), drawn(1, 4)
    orthonormal, _ = np.linalg.qr(flat(gradients).T)
    random = np.random.default_rng(0).normal(size=(2, ENTRIES))
    inside = orthonormal @ (orthonormal.T @ random[0])
    outside = random[1] - orthonormal @ (orthonormal.T @ random[1])
    step = np.sqrt(0.3) * inside / np.linalg.norm(inside) + np.sqrt(0.7) * outside / np.linalg.norm(outside)
    measured = measure_whole("retain_tangential_share", base, plus(base, split(step)), retain_gradients=gradients)
    assert measured.value == pytest.approx(0.3, rel=1e-9)
    assert "4 directions among 83 entries" in measured.remark


def test_the_span_is_of_all_weights_as_one_and_no_average(measure_whole: MeasureWhole) -> None:
    base, gradients = drawn(0), drawn(1, 1)
    first, second = gradients
    # Within each weight's own gradient, but with opposite signs: orthogonal to the whole one.
    norms = {n: float(g.square().sum()) for n, g in gradients.items()}
    step = {first: gradients[first][0] / norms[first], second: -gradients[second][0] / norms[second]}
    whole = measure_whole("retain_tangential_share", base, plus(base, step), retain_gradients=gradients)
    assert whole.value == pytest.approx(0.0, abs=1e-12)
    for name in SHAPES:
        alone = [{name: w[name]} for w in (base, plus(base, step), gradients)]
        part = measure_whole("retain_tangential_share", *alone[:2], retain_gradients=alone[2])
        assert part.value == pytest.approx(1.0)


@settings(max_examples=15)
@given(seed=st.integers(0, 1000))
def test_every_quantity_is_what_numpy_gives(measure_whole: MeasureWhole, seed: int) -> None:
    base, step, gradients = drawn(seed), drawn(seed + 1), drawn(seed + 2, 9)
    g, d = flat(gradients), flat(step)
    _, s, right = np.linalg.svd(g, full_matrices=False)
    expected = {
        "retain_tangential_share": ((right @ d) ** 2).sum() / (d @ d),
        "retain_loss_change": g.mean(0) @ d,
        "gradient_concentration": s[0] ** 2 / (s**2).sum(),
        "gradient_top_share": (right[0] @ d) ** 2 / (d @ d),
        "gradient_top_ratio": (right[0] @ d) ** 2 / (d @ d) * ENTRIES,
    }
    for metric, value in expected.items():
        name = "retain_gradients" if metric.startswith("retain") else "gradients"
        measured = measure_whole(metric, base, plus(base, step), **{name: gradients})
        assert measured.value == pytest.approx(value, rel=1e-7, abs=1e-12), metric


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), size=st.floats(1e-3, 1e3))
def test_shares_do_not_depend_on_the_size_of_the_step_and_the_loss_is_linear_in_it(
    measure_whole: MeasureWhole, seed: int, size: float
) -> None:
    base, step, gradients = drawn(seed), drawn(seed + 1), drawn(seed + 2, 3)
    for metric, factor in (("retain_tangential_share", 1.0), ("retain_loss_change", size)):
        small, large = (
            number(measure_whole(metric, base, plus(base, step, by), retain_gradients=gradients))
            for by in (1.0, size)
        )
        assert large == pytest.approx(factor * small, rel=1e-6)


def number(measured: Measurement) -> float:
    assert measured.value is not None
    return measured.value


def test_a_random_update_reads_what_chance_gives(measure_whole: MeasureWhole) -> None:
    base, gradients = drawn(0), drawn(1, 8)
    shares = [
        number(measure_whole("retain_tangential_share", base, plus(base, drawn(seed)), retain_gradients=gradients))
        for seed in range(100, 200)
    ]
    chance = 8 / ENTRIES
    # A share of this kind is Beta(4, 37.5) distributed.
    deviation = (chance * (1 - chance) / (ENTRIES / 2 + 1)) ** 0.5
    assert np.mean(shares) == pytest.approx(chance, abs=4 * deviation / 100**0.5)


def test_what_has_no_value_says_why(measure_whole: MeasureWhole) -> None:
    base, gradients = drawn(0), drawn(1, 2)
    silent = {name: torch.zeros_like(g) for name, g in gradients.items()}
    none = measure_whole("retain_tangential_share", base, plus(base, drawn(2)), retain_gradients=silent)
    assert (none.value, none.remark) == (None, "every sample's gradient is zero here")
    still = measure_whole("retain_tangential_share", base, base, retain_gradients=gradients)
    assert (still.value, still.remark) == (0.0, "the update is zero")
    broken = plus(base, drawn(2))
    next(iter(broken.values()))[0, 0] = torch.nan
    poisoned = measure_whole("retain_loss_change", base, broken, retain_gradients=gradients)
    assert poisoned.value is None
    assert "NaN or infinite entries on the tuned side" in poisoned.remark


def test_the_weight_that_contributes_most_is_named(measure_whole: MeasureWhole) -> None:
    base, gradients = drawn(0), drawn(1, 1)
    second = list(SHAPES)[1]
    step = {name: (g[0] if name == second else torch.zeros_like(g[0])) for name, g in gradients.items()}
    for metric in ("retain_tangential_share", "retain_loss_change"):
        assert measure_whole(metric, base, plus(base, step), retain_gradients=gradients).worst == second
