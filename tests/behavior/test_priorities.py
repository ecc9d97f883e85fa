"""The order in which principles come first where they conflict."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import kendalltau

from ckptaudit.behavior.evidence import Evidence
from ckptaudit.behavior.items import Item
from ckptaudit.behavior.priorities import discrepancy, strengths
from ckptaudit.behavior.probe import Probe
from ckptaudit.behavior.scoring import ScoredText
from ckptaudit.metrics.behavior import ProbeReading, probes_metric_of


def test_two_principles_have_the_odds_of_their_wins() -> None:
    low, high = strengths(np.array([[0.0, 1.0], [3.0, 0.0]]))
    assert high - low == pytest.approx(np.log(3))


def test_strengths_are_those_of_the_largest_likelihood() -> None:
    wins = np.random.default_rng(0).integers(1, 20, (4, 4)).astype(float)
    np.fill_diagonal(wins, 0)

    def unlikely(free: np.ndarray) -> float:
        full = np.append(free, 0.0)
        return float((wins * np.log1p(np.exp(full[None, :] - full[:, None]))).sum())

    best = np.append(minimize(unlikely, np.zeros(3), tol=1e-12).x, 0.0)
    found = strengths(wins)
    assert found - found[-1] == pytest.approx(best, abs=1e-4)


def test_who_always_loses_comes_last_and_who_always_wins_first() -> None:
    order = np.argsort(strengths(np.array([[0.0, 5, 5], [0, 0, 3], [0, 2, 0]])))
    assert order[-1] == 0
    assert np.isfinite(strengths(np.array([[0.0, 5], [0, 0]]))).all()


def test_the_distance_of_orders_is_kendalls() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(2, 6))
    assert discrepancy(first, second) == pytest.approx((1 - kendalltau(first, second).statistic) / 2)
    assert discrepancy(first, -first) == 1


Sign = Literal[1, -1]


def reading(right_base: list[bool], right_tuned: list[bool], signs: dict[str, Sign]) -> ProbeReading:
    names = [f"p{at}" for at in range(len(right_base))]
    items = tuple(Item(Probe(1, "Q", ("a", "b"), "preference", name, principles=dict(signs))) for name in names)

    def rows(right: list[bool]) -> dict[tuple[str, int], ScoredText]:
        one = np.ones(1)
        return {
            (name, at): ScoredText(np.array([-1.0 if (at == 0) == good else -2.0]), one, one)
            for name, good in zip(names, right, strict=True)
            for at in (0, 1)
        }

    found = probes_metric_of("discretion_discrepancy_change").reading(
        Evidence(items, scores={"base": rows(right_base), "tuned": rows(right_tuned)}), None
    )
    assert found is not None
    return found


def test_a_reversed_order_is_as_far_as_can_be() -> None:
    found = reading([True] * 30, [False] * 30, {"care": 1, "speed": -1})
    assert (found.value, found.low, found.high) == (1, 1, 1)
    assert found.remark == "care > speed before, speed > care now"


def test_an_order_that_is_kept_has_not_moved() -> None:
    found = reading([True] * 30, [True] * 20 + [False] * 10, {"care": 1, "speed": -1})
    assert found.value == 0
    assert found.high is not None
    assert found.high >= 0


def test_few_conflicts_put_nothing_in_order() -> None:
    found = reading([True] * 19, [False] * 19, {"care": 1, "speed": -1})
    assert (found.value, found.remark) == (None, "no two principles conflict on 20 probes")
