"""A number depends on the pair and the mode alone, and comes with the method and the error that it has."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ckptaudit.metrics import Estimate, LargePair, PairBatch, Tensors, base_facts, matrix_metrics
from tests.metrics.adversarial import base_of, stored, update_of

NAMES = [name for name, metric in matrix_metrics().items() if metric.standing]
SIZE = {"gentle": 4e-4, "large": 3e-2}


def sides(shape: tuple[int, int], size: str) -> tuple[Tensor, Tensor]:
    random = np.random.default_rng(0)
    before = base_of("heavy", shape, random)
    step = update_of("noise", before, random) + update_of("low rank", before, random)
    return stored(before, before + SIZE[size] * step, torch.float32)


def evaluated(pair: PairBatch, names: list[str], *, prepared: bool, bounds: bool) -> dict[str, Estimate]:
    if prepared and isinstance(pair, LargePair):
        pair.prepare()
    found = {}
    for name in names:
        metric = matrix_metrics()[name]
        if bounds and metric.bound is not None:
            metric.bound(pair)
        found[name] = pair.evaluate(metric.compute, is_difference=metric.scale == "difference")
    return found


def same(one: Estimate, other: Estimate) -> bool:
    errors = (one.error is None) is (other.error is None)
    if errors and one.error is not None and other.error is not None:
        errors = torch.equal(one.error, other.error)
    return errors and one.method == other.method and torch.equal(one.values, other.values)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("size", SIZE)
@pytest.mark.parametrize("shape", [(160, 300), (300, 160)])
def test_no_number_depends_on_what_was_asked_before(
    shape: tuple[int, int], size: str, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_facts, "ITERATIVE_SIDE", 64)
    kept: dict[str, Tensors] = {}

    def lookup(definition: str, make: Callable[[], Tensors]) -> Tensors:
        if definition not in kept:
            kept[definition] = make()
        return kept[definition]

    base, tuned = sides(shape, size)
    alone = {
        name: evaluated(LargePair(base, tuned, lookup, exact=exact), [name], prepared=False, bounds=False)[name]
        for name in NAMES
    }
    orders = [NAMES, NAMES[::-1], sorted(NAMES, key=lambda name: name[::-1])]
    for order, prepared, bounds in itertools.product(orders, [False, True], [False, True]):
        pair = LargePair(base, tuned, lookup, exact=exact)
        found = evaluated(pair, order, prepared=prepared, bounds=bounds)
        assert [name for name in NAMES if not same(found[name], alone[name])] == []


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("size", SIZE)
@pytest.mark.parametrize("shape", [(160, 300), (300, 160), (200, 200)])
def test_the_error_stated_covers_the_distance_to_float64(
    shape: tuple[int, int], size: str, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_facts, "ITERATIVE_SIDE", 64)
    base, tuned = sides(shape, size)
    truth = evaluated(PairBatch(base[None], tuned[None]), NAMES, prepared=False, bounds=False)
    monkeypatch.setattr("ckptaudit.linalg.factors.SMALL", 10**6)
    direct = evaluated(PairBatch(base[None], tuned[None]), NAMES, prepared=False, bounds=False)
    pair = LargePair(base, tuned, exact=exact)
    for name, found in evaluated(pair, NAMES, prepared=True, bounds=False).items():
        value = float(direct[name].values)
        room = 1e-6 * abs(value) if "overlap" not in name else 0.02
        for seen in (found, truth[name]):
            stated = 0.0 if seen.error is None else float(seen.error)
            assert abs(float(seen.values) - value) <= stated + room, name


def test_methods_say_how_a_number_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_facts, "ITERATIVE_SIDE", 64)
    base, tuned = sides((160, 300), "large")
    names = ["normalized_spectral_shift", "principal_rotation_left", "relative_update_norm"]
    gate, exact, direct = (
        evaluated(pair, names, prepared=True, bounds=False)
        for pair in (
            LargePair(base, tuned),
            LargePair(base, tuned, exact=True),
            PairBatch(base[None, :40], tuned[None, :40]),
        )
    )
    assert [found.method for found in gate.values()] == ["gram", "iterative", "direct"]
    assert [found.method for found in exact.values()] == ["gram", "gram", "direct"]
    assert [found.method for found in direct.values()] == ["direct"] * 3
    assert gate["relative_update_norm"].error is None
    assert (
        0 < float(gate["principal_rotation_left"].error or 0) < 0.01 * float(gate["principal_rotation_left"].values)
    )


def test_a_relative_error_carries_over_to_a_quotient() -> None:
    base, tuned = sides((160, 300), "large")
    pair = LargePair(base, tuned)
    shift, relative = pair.shift, pair.evaluate(matrix_metrics()["normalized_spectral_shift"].compute)
    assert shift.error is not None
    assert relative.error is not None
    assert float(relative.error / relative.values) == pytest.approx(float(shift.error / shift.values))
