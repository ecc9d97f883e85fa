"""What a finite number of probes can tell: intervals over probes, paired where two models answer the same ones.

Probes are drawn, samples of one probe belong together: every interval is over probes, whatever each holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf, sqrt
from typing import Any

import numpy as np

LEVEL = 0.95
DRAWS = 2_000
MOST_RESAMPLED = 10_000
"""Probes above which the interval is the normal one: resampling takes time as draws times probes."""

CHUNK = 2**22
"""Numbers that stand in memory while resampling."""

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number, the interval of the given confidence around it, and how many probes it rests on."""

    value: float
    low: float
    high: float
    probes: int
    method: str
    level: float = LEVEL


@dataclass(frozen=True, slots=True)
class PairedShares:
    """Shares of the same probes by both models: `lost` are true of the base alone, `gained` of the tuned alone.

    `difference` is tuned minus base; `p` is McNemar's two-sided exact p-value, binomial on `lost` and `gained`.
    """

    base: Estimate
    tuned: Estimate
    difference: Estimate
    lost: int
    gained: int
    p: float


def wilson(successes: float, count: float, level: float = LEVEL) -> Estimate:
    """A share with Wilson's score interval (Wilson 1927); counts may be effective ones and not integers.

    centre = (p + z^2/2n) / (1 + z^2/n), half = z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n).
    """
    p, z = successes / count, _normal_quantile(level)
    shrink = 1 + z * z / count
    centre = (p + z * z / (2 * count)) / shrink
    half = z * sqrt(p * (1 - p) / count + z * z / (4 * count * count)) / shrink
    # At 0 and 1 the ends are those exactly, which rounding would miss.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == count else min(1.0, centre + half)
    return Estimate(p, low, high, round(count), "Wilson", level)


def mcnemar(lost: int, gained: int) -> float:
    """Two-sided exact p-value of McNemar's test: `lost` of `lost + gained` against a fair coin."""
    if lost + gained == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(lost, lost + gained, 0.5).pvalue)


def share(values: Array, weights: Array | None = None, level: float = LEVEL, *, seed: int = 0) -> Estimate:
    """The weighted mean of one number from 0 to 1 for each probe.

    Wilson's interval where all are 0 or 1, on Kish's effective count if weights differ: (sum w)^2 / sum w^2. Shares
    among a probe's own samples are resampled over probes.
    """
    weights = _weights(values, weights)
    effective = float(weights.sum() ** 2 / (weights**2).sum())
    mean = float((weights * values).sum() / weights.sum())
    if bool(np.isin(values, (0.0, 1.0)).all()):
        return replace(wilson(mean * effective, effective, level), value=mean, probes=len(values))
    return ratio(values, np.ones_like(values), weights, level, seed=seed)


def paired_shares(base: Array, tuned: Array, weights: Array | None = None, level: float = LEVEL) -> PairedShares:
    """The same yes-or-no question of the same probes for two models, 0 or 1 each.

    The difference has Tango's score interval (Tango 1998), which holds 0 just where McNemar's statistic
    |gained - lost| / sqrt(gained + lost) is below z; weights enter by Kish's effective count.
    """
    weights = _weights(base, weights)
    lost, gained = (base > tuned), (tuned > base)
    effective = float(weights.sum() ** 2 / (weights**2).sum())
    parts = [float(weights[one].sum() / weights.sum()) for one in (gained, lost)]
    low, high = _tango(parts[0] * effective, parts[1] * effective, effective, level)
    difference = Estimate(parts[0] - parts[1], low, high, len(base), "Tango", level)
    counts = int(lost.sum()), int(gained.sum())
    return PairedShares(
        share(base, weights, level), share(tuned, weights, level), difference, *counts, mcnemar(*counts)
    )


def mean(values: Array, weights: Array | None = None, level: float = LEVEL, *, seed: int = 0) -> Estimate:
    """The weighted mean of one number for each probe, such as a paired difference; the interval is `ratio`'s."""
    return ratio(values, np.ones_like(values), weights, level, seed=seed)


def ratio(
    numerators: Array, denominators: Array, weights: Array | None = None, level: float = LEVEL, *, seed: int = 0
) -> Estimate:
    """A ratio of sums over probes, sum w a / sum w d: nats by tokens, a tuned model's lengths by the base's.

    The interval is the studentised bootstrap's over probes, the seed fixed: t* = (R* - R) / s*, with
    s^2 = n/(n-1) sum (w (a - R d))^2 / (sum w d)^2. Above 10,000 probes, and where resampling has no spread,
    Student's quantile takes the place of t*'s. Fewer than two probes have an interval without ends.
    """
    weights = _weights(numerators, weights)
    a, d, count = weights * numerators, weights * denominators, len(numerators)
    value = float(a.sum() / d.sum())
    if count < 2:
        return Estimate(value, -inf, inf, count, "none", level)
    error = float(_spread((a * a).sum(), (a * d).sum(), (d * d).sum(), value, d.sum(), count))
    tail = (1 - level) / 2
    student = student_quantile(tail, count - 1)
    below, above, method = -student, student, "Student"
    if count <= MOST_RESAMPLED and error > 0:
        with np.errstate(invalid="ignore"):  # between two infinite draws lies nothing
            found = np.quantile(_resampled(a, d, value, seed), (tail, 1 - tail))
        if bool(np.isfinite(found).all()):
            below, above, method = float(found[0]), float(found[1]), "bootstrap"
    return Estimate(value, value - above * error, value - below * error, count, method, level)


# A gate of weights alone starts a second earlier without SciPy's distributions.
def _normal_quantile(level: float) -> float:
    from scipy.stats import norm

    return float(norm.isf((1 - level) / 2))


def student_quantile(tail: float, freedom: int) -> float:
    """What Student's t with these degrees of freedom exceeds with the probability `tail`."""
    from scipy.stats import t

    return float(t.isf(tail, freedom))


def _weights(values: Array, weights: Array | None) -> Array:
    return np.ones(len(values)) if weights is None else weights


def _spread(aa: Any, ad: Any, dd: Any, value: Any, total: Any, count: int) -> Any:
    squares = np.maximum(aa - 2 * value * ad + value * value * dd, 0)
    return np.sqrt(count / (count - 1) * squares) / np.abs(total)


def _resampled(a: Array, d: Array, value: float, seed: int) -> Array:
    """t* of every draw; where a draw has no spread it is 0 or infinite."""
    rng, count = np.random.default_rng(seed), len(a)
    columns = np.stack([a, d, a * a, a * d, d * d], axis=1)
    found, left = [], DRAWS
    while left:
        draws = min(left, max(1, CHUNK // count))
        left -= draws
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)
        sa, sd, aa, ad, dd = (drawn @ columns).T
        with np.errstate(divide="ignore", invalid="ignore"):
            again = sa / sd
            found.append((again - value) / _spread(aa, ad, dd, again, sd, count))
    drawn_t: Array = np.nan_to_num(np.concatenate(found), nan=0.0, posinf=inf, neginf=-inf)
    return drawn_t


def _tango(gained: float, lost: float, count: float, level: float) -> tuple[float, float]:
    """Where (gained - lost - n D) / sqrt(n (2 q + D (1 - D))) = +-z, q the likeliest share lost given D."""
    z = _normal_quantile(level)

    def score(difference: float) -> float:
        b = -gained - lost + (2 * count - gained + lost) * difference
        c = -lost * difference * (1 - difference)
        q = (sqrt(max(0.0, b * b - 8 * count * c)) - b) / (4 * count)
        variance = count * (2 * q + difference * (1 - difference))
        return (gained - lost - count * difference) / sqrt(max(variance, 1e-300))

    value = (gained - lost) / count
    return _end(lambda x: score(x) - z, -1.0, value), _end(lambda x: score(x) + z, value, 1.0)


def _end(function: Callable[[float], float], low: float, high: float) -> float:
    """The root, or the end of the range that it lies past."""
    from scipy.optimize import brentq

    margin = 1e-12
    first, last = function(low + margin), function(high - margin)
    if first * last > 0:
        return high if abs(last) < abs(first) else low
    return float(brentq(function, low + margin, high - margin, xtol=1e-10))
