"""Numbers of probes to readings with an interval: resampled probes, or the forms that proportions have."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ckptaudit.metrics.behavior import NAMED, ProbeReading

Array = np.ndarray[Any, Any]
Statistic = Callable[[Array], Array]

DRAWS = 2000
Z = 1.959964
"""Standard errors of an interval of 95 %."""


def of_sums(
    columns: Sequence[Sequence[float]], statistic: Statistic, names: Sequence[str] = (), worst: Sequence[float] = ()
) -> ProbeReading:
    """A function of sums over probes, such as tokens' total over tokens: value, and percentiles of 2,000 resamples.

    columns: one list for each sum, an entry for each probe; `statistic` takes sums `[..., columns]`. A probe is drawn
    with all that belongs to it. `worst` ranks the probes, largest first.
    """
    table = np.asarray(columns, dtype=np.float64).T
    value = float(statistic(table.sum(axis=0)))
    if not math.isfinite(value):
        return ProbeReading(None, samples=len(table), remark=f"comes to {value}")
    drawn = _resampled(table, statistic)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return ProbeReading(
        value,
        float(min(low, value)),
        float(max(high, value)),
        float(drawn.std()),
        len(table),
        worst=_worst(names, worst),
    )


def mean(values: Sequence[float], names: Sequence[str] = (), *, highest: bool = True) -> ProbeReading:
    """The mean over probes; the probes with the highest values, or the lowest, are named."""
    ranked = values if highest else [-v for v in values]
    return of_sums([values, [1.0] * len(values)], quotient, names, ranked)


def per_token(totals: Sequence[float], tokens: Sequence[int], names: Sequence[str] = ()) -> ProbeReading:
    """The mean over all tokens; the probes with the highest mean of their own are named."""
    own = [t / max(n, 1) for t, n in zip(totals, tokens, strict=True)]
    return of_sums([totals, tokens], quotient, names, own)


def quotient(sums: Array) -> Array:
    """First sum over second; 0 where there is nothing to divide by."""
    return np.divide(sums[..., 0], sums[..., 1], out=np.zeros_like(sums[..., 0]), where=sums[..., 1] != 0)


def share(hits: Sequence[bool], names: Sequence[str] = ()) -> ProbeReading:
    """A proportion with Wilson's interval."""
    n, k = len(hits), sum(hits)
    p = k / n
    middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    named = tuple(name for name, hit in zip(names, hits, strict=False) if hit)[:NAMED]
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return ProbeReading(p, low, high, math.sqrt(p * (1 - p) / n), n, named)


def change(before: Sequence[bool], after: Sequence[bool], names: Sequence[str] = ()) -> ProbeReading:
    """The change of a proportion on the same probes, with the interval of Bonett and Price (2012).

    Half a pair is added to either kind of discordant pair, so that no change seen is not taken for no change. Named
    are probes that changed.
    """
    n = len(before)
    up = sum(a and not b for b, a in zip(before, after, strict=True))
    down = sum(b and not a for b, a in zip(before, after, strict=True))
    p, q = (up + 1) / (n + 2), (down + 1) / (n + 2)
    deviation = math.sqrt(max(0.0, (p + q - (p - q) ** 2) / (n + 2)))
    changed = [name for name, b, a in zip(names, before, after, strict=False) if a != b]
    middle = p - q
    return ProbeReading(
        (up - down) / n,
        max(-1.0, min(middle - Z * deviation, (up - down) / n)),
        min(1.0, max(middle + Z * deviation, (up - down) / n)),
        deviation,
        n,
        tuple(changed[:NAMED]),
        remark=f"{up} up, {down} down",
    )


def _resampled(table: Array, statistic: Statistic) -> Array:
    rng = np.random.default_rng(0)
    n = len(table)
    found: list[Array] = []
    step = max(1, min(DRAWS, 2**22 // n))
    for start in range(0, DRAWS, step):
        counts = rng.multinomial(n, np.full(n, 1 / n), size=min(step, DRAWS - start))
        found.append(statistic(counts @ table))
    drawn = np.concatenate(found)
    return drawn[np.isfinite(drawn)]


def _worst(names: Sequence[str], by: Sequence[float]) -> tuple[str, ...]:
    ranked = sorted(zip(by, names, strict=False), key=lambda pair: -pair[0])
    return tuple(name for _, name in ranked[:NAMED])
