"""Layers whose update is out of line with the same role's in the other layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from statistics import median

from ckptaudit.findings import Finding
from ckptaudit.metrics.evidence import RunEvidence, Values
from ckptaudit.metrics.findings import findings_metric

SIZE = "relative_update_norm"

LEAST_LAYERS = 8
"""Fewer points tell a trend and what is out of line with it poorly apart."""

SCORE, FACTOR = 10.0, 4.0
"""A layer is out of line beyond this robust z, and by this factor at least."""

LEAST_SPREAD = 0.1
"""Standard deviation of the logarithm that stands in for a smaller one: a tenth is no news."""

TO_SIGMA = 1.4826
"""Median absolute deviation to standard deviation, for a normal distribution."""

Points = Sequence[tuple[int, float]]


@findings_metric(
    scope="run",
    unit="matrices",
    formula=f"#{{i : |r_i| > {SCORE:g} s, |r_i| > log {FACTOR:g}}}, r = log size - Theil-Sen line, s = 1.4826 MAD",
    source="Theil-Sen: Sen, JASA 63 (1968) 1379; the limits are ours",
    rests_on=(SIZE,),
)
def depth_outliers(evidence: RunEvidence) -> list[Finding]:
    """Matrices whose relative update is far larger or smaller than their role's trend over the layers."""
    names = {t.name: t for t in evidence.pair.aligned if t.is_matrix and not t.place.in_experts}
    kin: dict[tuple[str, str], dict[int, str]] = {}
    for name, tensor in names.items():
        value = evidence.values[SIZE].get(name)
        if tensor.place.layer is not None and value is not None and 0 < value < math.inf:
            kin.setdefault((tensor.place.stack, tensor.place.role), {})[tensor.place.layer] = name
    return [finding for layers in kin.values() for finding in _outliers(evidence.values[SIZE], layers)]


def residuals(points: Points) -> list[float]:
    """Distances from the Theil-Sen line: slope median((y_j - y_i) / (x_j - x_i)), intercept median(y - slope x)."""
    slope = median((y1 - y0) / (x1 - x0) for (x0, y0), (x1, y1) in combinations(points, 2))
    level = median(y - slope * x for x, y in points)
    return [y - slope * x - level for x, y in points]


def scores(points: Points) -> list[tuple[float, float]]:
    """Residual and robust z of each point, the spread not below a tenth."""
    rest = residuals(points)
    spread = max(LEAST_SPREAD, TO_SIGMA * median(abs(r) for r in rest))
    return [(r, r / spread) for r in rest]


def _outliers(sizes: Values, layers: dict[int, str]) -> Iterator[Finding]:
    if len(layers) < LEAST_LAYERS:
        return
    numbers = sorted(layers)
    points = [(number, math.log(sizes[layers[number]] or 1.0)) for number in numbers]
    for number, (rest, score) in zip(numbers, scores(points), strict=True):
        if abs(score) > SCORE and abs(rest) > math.log(FACTOR):
            times = f"{math.exp(abs(rest)):.3g} times {'larger' if rest > 0 else 'smaller'}"
            said = f"its relative update is {times} than the trend over {len(numbers)} layers (z {score:.1f})"
            yield Finding(layers[number], "out of line", said)
