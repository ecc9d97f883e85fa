"""How far two judges agree beyond chance: Cohen's kappa over probes."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import sqrt
from typing import Any

import numpy as np

from ckptaudit.behavior.statistics import LEVEL, Array, Estimate, student_quantile, wilson

Pair = tuple[Hashable, Hashable]
"""What the two judges said of one thing."""


def cohen_kappa(said: Sequence[Sequence[Pair]], weights: Array, level: float = LEVEL) -> Estimate | None:
    """Cohen's kappa (1960), (p_o - p_e) / (1 - p_e): p_o is the share on which both agree, p_e that of chance.

    p_e = sum_c p_1(c) p_2(c) over categories c. `said` holds for each probe what both said of it, once or more
    often. None where both always say one and the same, where chance alone agrees. The interval is the delete-one
    jackknife's over probes with Student's quantile, widened to Wilson's for p_o, p_e held fixed: without it a few
    agreeing probes would have an interval of no width.
    """
    tables = _tables(said, weights)
    table = tables.sum(axis=0)
    observed, chance = _shares(table)
    if chance >= 1:
        return None
    value, count = float((observed - chance) / (1 - chance)), len(said)
    effective = float(weights.sum() ** 2 / (weights**2).sum())
    share = wilson(float(observed) * effective, effective, level)
    ends = [(end - chance) / (1 - chance) for end in (share.low, share.high)]
    half = _half_width(tables, table, value, level)
    low, high = min(ends[0], value - half), min(1.0, max(ends[1], value + half))
    return Estimate(value, float(low), float(high), count, "jackknife", level)


def _tables(said: Sequence[Sequence[Pair]], weights: Array) -> Array:
    """What each probe adds to the table of both judges' categories, `[probes, categories, categories]`."""
    categories = {name: at for at, name in enumerate(dict.fromkeys(c for pairs in said for p in pairs for c in p))}
    tables = np.zeros((len(said), len(categories), len(categories)))
    for at, (pairs, weight) in enumerate(zip(said, weights, strict=True)):
        for first, second in pairs:
            tables[at, categories[first], categories[second]] += weight
    return tables


def _shares(table: Array) -> tuple[Any, Any]:
    """p_o and p_e of a table, or of each of a stack."""
    total = table.sum(axis=(-2, -1))
    observed = np.trace(table, axis1=-2, axis2=-1) / total
    return observed, (table.sum(axis=-1) * table.sum(axis=-2)).sum(axis=-1) / total**2


def _half_width(tables: Array, table: Array, value: float, level: float) -> float:
    count = len(tables)
    observed, chance = _shares(table - tables)
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(chance < 1, (observed - chance) / (1 - chance), value)
    error = sqrt((count - 1) / count * float(((left - left.mean()) ** 2).sum()))
    return student_quantile((1 - level) / 2, count - 1) * error
