"""The shape of a tail of importance weights: the generalised Pareto fit of Zhang and Stephens, as PSIS uses it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

MIN_WEIGHTS = 256
"""Fewer sequences leave a tail of under fifty; ours."""


def tail_size(samples: int) -> int:
    """How many of the largest weights are fitted: ceil(min(0.2 S, 3 sqrt S)) (Vehtari et al., PSIS)."""
    return math.ceil(min(0.2 * samples, 3 * math.sqrt(samples)))


def largest_usable_k(samples: int) -> float:
    """The shape below which PSIS estimates are usable: min(1 - 1 / log10 S, 0.7)."""
    return min(1 - 1 / math.log10(samples), 0.7)


def pareto_k(log_weights: Array) -> float:
    """Shape k of the Pareto tail of exp(log_weights); infinite moments of order 1/k and above.

    `log_weights` has shape (S,), one a sequence. NaN where the tail is constant or S < 25.
    """
    size = tail_size(len(log_weights))
    if size < 5:
        return math.nan
    ordered = np.sort(log_weights)
    ordered = ordered[-size - 1 :] - ordered[-1]
    excess = np.exp(ordered[1:]) - np.exp(max(ordered[0], math.log(np.finfo(np.float64).tiny)))
    return _shape(excess[excess > 0])


def _shape(excess: Array) -> float:
    """Zhang and Stephens (2009), with the weak prior of ten observations at 1/2 that PSIS adds."""
    count = len(excess)
    if count < 5 or excess[0] == excess[-1]:
        return math.nan
    points = 30 + int(math.sqrt(count))
    quartile = excess[int(count / 4 + 0.5) - 1]
    grid = 1 - np.sqrt(points / (np.arange(1, points + 1) - 0.5))
    rates = grid / (3 * quartile) + 1 / excess[-1]
    shapes = np.log1p(-rates[:, None] * excess).mean(axis=1)
    likelihood = count * (np.log(-rates / shapes) - shapes - 1)
    weights = np.exp(likelihood - likelihood.max())
    rate = float(rates @ weights / weights.sum())
    shape = float(np.log1p(-rate * excess).mean())
    return (shape * count + 0.5 * 10) / (count + 10)
