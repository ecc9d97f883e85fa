"""Estimates over probes as readings: what `ckptaudit.behavior.statistics` gives, with the probes that did most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ckptaudit.behavior import statistics
from ckptaudit.behavior.statistics import Estimate
from ckptaudit.metrics.behavior import NAMED, ProbeGroup, ProbeReading
from ckptaudit.metrics.measurement import Reach


def mean(group: ProbeGroup, values: Sequence[float], names: Sequence[str], *, lowest: bool = False) -> ProbeReading:
    """The weighted mean over probes; those with the highest values are named, or with the lowest."""
    found = statistics.mean(np.asarray(values, dtype=np.float64), weights_of(group, names))
    return as_reading(found, _ranked(names, [-v for v in values] if lowest else values))


def per_token(
    group: ProbeGroup, totals: Sequence[float], tokens: Sequence[int], names: Sequence[str]
) -> ProbeReading:
    """The weighted mean over all tokens; the probes with the highest mean of their own are named."""
    own = [t / max(n, 1) for t, n in zip(totals, tokens, strict=True)]
    return quotient(group, totals, [float(n) for n in tokens], names, own)


def quotient(
    group: ProbeGroup, above: Sequence[float], below: Sequence[float], names: Sequence[str], worst: Sequence[float]
) -> ProbeReading:
    """A weighted sum over another, such as the tuned model's lengths over the base's; `worst` ranks the probes."""
    numerators, denominators = (np.asarray(column, dtype=np.float64) for column in (above, below))
    if not denominators.sum() > 0:
        return ProbeReading(None, samples=len(names), remark="there is nothing to divide by")
    return as_reading(statistics.ratio(numerators, denominators, weights_of(group, names)), _ranked(names, worst))


def share(group: ProbeGroup, hits: Sequence[bool] | Sequence[float], names: Sequence[str]) -> ProbeReading:
    """A weighted proportion, of a yes or no for each probe or of shares; those above 0 are named."""
    found = statistics.share(np.asarray(hits, dtype=np.float64), weights_of(group, names))
    return as_reading(found, [name for name, hit in zip(names, hits, strict=True) if hit])


def change(
    group: ProbeGroup, before: Sequence[bool], after: Sequence[bool], names: Sequence[str], says: str = ""
) -> ProbeReading:
    """The change of a proportion on the same probes; those that changed are named.

    `says` has a `{}` for how many of them it is true of the base, and bounds what the change can come to.
    """
    base, tuned = (np.asarray(column, dtype=np.float64) for column in (before, after))
    pair = statistics.paired_shares(base, tuned, weights_of(group, names))
    changed = [name for name, b, a in zip(names, before, after, strict=True) if a != b]
    said = f"{pair.base.value:.3g} before, {pair.tuned.value:.3g} now; McNemar p {pair.p:.2g}"
    reading = as_reading(pair.difference, changed, said)
    held = pair.base.value
    return replace(reading, reach=Reach(-held, 1 - held, says.format(amount(held)))) if says else reading


def as_reading(found: Estimate, worst: Sequence[str], remark: str = "") -> ProbeReading:
    """An estimate as a reading that names the first of `worst`; one that is not finite has no value."""
    if not math.isfinite(found.value):
        return ProbeReading(None, samples=found.probes, remark=f"comes to {found.value}")
    return ProbeReading(found.value, found.low, found.high, found.probes, tuple(worst[:NAMED]), remark)


def weights_of(group: ProbeGroup, names: Sequence[str]) -> statistics.Array:
    """How much each of these probes counts."""
    by_name = {item.probe.id: item.probe.weight for item in group.items}
    return np.asarray([by_name[name] for name in names], dtype=np.float64)


def amount(held: float) -> str:
    """A share in words."""
    return {0.0: "none", 1.0: "all"}.get(held, f"{100 * held:.3g} %")


def _ranked(names: Sequence[str], by: Sequence[float]) -> list[str]:
    return [name for _, name in sorted(zip(by, names, strict=True), key=lambda pair: -pair[0])]
