"""Damages to a run's curves: each takes and gives values by canonical name and step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

Curves = Mapping[str, Mapping[int, float]]
CurveDamage = Callable[[Curves], Curves]


def _with_value(curves: Curves, name: str, place: int, change: Callable[[float], float]) -> Curves:
    curve = dict(curves.get(name, {}))
    step = sorted(curve)[place]
    curve[step] = change(curve[step])
    return {**curves, name: curve}


def nan_grad_norm(curves: Curves) -> Curves:
    """One gradient norm is NaN."""
    return _with_value(curves, "grad_norm", -1, lambda _: math.nan)


def grad_norm_spike(curves: Curves) -> Curves:
    """One gradient norm is a hundred times as large."""
    return _with_value(curves, "grad_norm", -2, lambda value: 100 * value)


def reward_curve_off(curves: Curves) -> Curves:
    """One logged reward is a hundredth too high."""
    return _with_value(curves, "reward_mean", -1, lambda value: 1.01 * value)


CURVE_DAMAGES: dict[str, CurveDamage] = {
    made.__name__: made for made in (nan_grad_norm, grad_norm_spike, reward_curve_off)
}
