"""Curves and bars as SVG, drawn here: no script, no style of their own, and every text escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from ckptaudit.errors import printable
from ckptaudit.report.appearance import number

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 380, 150, 52, 10, 10, 22
MOST = 240
"""Points of a curve; of a longer one the smallest and the largest of each stretch are drawn."""

LOWEST = 1e-6
"""Where a logarithmic axis begins at the lowest, as a share of where it ends."""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing with its title and what it says in words."""

    title: str
    words: str
    svg: Markup


@dataclass(frozen=True, slots=True)
class Axis:
    """From values to a place between two ends of the drawing; of logarithms where `log`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value stands; what lies outside is put at the edge."""
        low, high, at = (self._scaled(v) for v in (self.low, self.high, value))
        share = (at - low) / (high - low) if high > low else 0.5
        return round(self.start + (self.end - self.start) * min(max(share, 0.0), 1.0), 1)

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.log else value


def axis(values: Sequence[float], start: float, end: float, *, log: bool | None = None) -> Axis:
    """An axis for these values; of logarithms where asked, or where they are positive and span over two decades."""
    known = [value for value in values if math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    positive = low > 0
    if log is None:
        log = positive and high > 100 * low
    if log and positive:
        # One step that is next to nothing would press all the others against the top.
        return Axis(max(low, high * LOWEST), high, start, end, log=True)
    return Axis(low, high, start, end)


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most MOST points in order: of each stretch the lowest and the highest."""
    if len(points) <= MOST:
        return list(points)
    size = math.ceil(2 * len(points) / MOST)
    kept: list[Point] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        ends = {min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])}
        kept += sorted(ends)
    return kept


def curve(
    points: Sequence[Point],
    *,
    band: Sequence[tuple[float, float, float]] = (),
    limit: float | None = None,
    first: Point | None = None,
    log_x: bool = False,
    log_y: bool | None = None,
) -> Markup:
    """A line through points, with a band (x, low, high) behind it, a limit, and the first failure marked."""
    drawn = thinned(points)
    edges = [edge for _, low, high in band for edge in (low, high)]
    limits = [] if limit is None else [limit]
    x = axis([p[0] for p in drawn], LEFT, WIDTH - RIGHT, log=log_x)
    y = axis([*(p[1] for p in drawn), *edges, *limits], HEIGHT - BOTTOM, TOP, log=log_y)
    parts = [_band(band, x, y), _limit(limit, y), _line(drawn, x, y), _first(first, x, y)]
    return _svg([*parts, *_labels(x, y)])


def bars(counts: Sequence[tuple[str, int]], marks: Sequence[int] = ()) -> Markup:
    """A bar for each count, on a logarithmic scale; the names of the bins at `marks` stand below."""
    y = Axis(0.5, float(max((count for _, count in counts), default=1)), HEIGHT - BOTTOM, TOP, log=True)
    width = (WIDTH - LEFT - RIGHT) / max(len(counts), 1)
    parts = []
    for place, (name, count) in enumerate(counts):
        left = LEFT + place * width
        if count:
            top = y.place(count)
            parts.append(
                f'<rect class="bar" x="{left:.1f}" y="{top}" width="{max(width - 0.5, 0.5):.1f}" '
                f'height="{HEIGHT - BOTTOM - top:.1f}"><title>{_shown(name)}: {count:,}</title></rect>'
            )
        if place in marks:
            parts.append(f'<text class="below" x="{left + width / 2:.1f}" y="{HEIGHT - 6}">{_shown(name)}</text>')
    return _svg([*parts, *_heights(y)])


def _line(points: Sequence[Point], x: Axis, y: Axis) -> str:
    places = " ".join(f"{x.place(a)},{y.place(b)}" for a, b in points)
    dots = f'<circle class="dot" cx="{x.place(points[0][0])}" cy="{y.place(points[0][1])}" r="2.5"/>'
    return dots if len(points) == 1 else f'<polyline class="curve" points="{places}"/>'


def _band(band: Sequence[tuple[float, float, float]], x: Axis, y: Axis) -> str:
    if len(band) < 2:
        return ""
    step = max(1, math.ceil(len(band) / MOST))
    kept = band[::step]
    above = [f"{x.place(a)},{y.place(high)}" for a, _, high in kept]
    below = [f"{x.place(a)},{y.place(low)}" for a, low, _ in reversed(kept)]
    return f'<polygon class="band" points="{" ".join((*above, *below))}"/>'


def _limit(limit: float | None, y: Axis) -> str:
    if limit is None:
        return ""
    at = y.place(limit)
    words = f'<text class="limit" x="{WIDTH - RIGHT}" y="{max(at - 3, 9)}">limit {_shown(number(limit))}</text>'
    return f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>{words}'


def _first(first: Point | None, x: Axis, y: Axis) -> str:
    if first is None:
        return ""
    across, up = x.place(first[0]), y.place(first[1])
    return (
        f'<line class="first" x1="{across}" x2="{across}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<circle class="first" cx="{across}" cy="{up}" r="4"><title>first broken</title></circle>'
    )


def _labels(x: Axis, y: Axis) -> list[str]:
    ends = [(x.low, "start", LEFT), (x.high, "end", WIDTH - RIGHT)]
    below = [
        f'<text class="below" text-anchor="{anchor}" x="{at}" y="{HEIGHT - 6}">{_shown(number(value))}</text>'
        for value, anchor, at in ends
    ]
    return [*below, *_heights(y)]


def _heights(y: Axis) -> list[str]:
    frame = f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>'
    words = [
        f'<text class="beside" x="{LEFT - 5}" y="{y.place(value) + 4}">{_shown(f"{value:.3g}")}</text>'
        for value in dict.fromkeys((y.low, y.high))
    ]
    return [frame, *words]


def _svg(parts: Sequence[str]) -> Markup:
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-hidden="true">{"".join(parts)}</svg>')


def _shown(text: str) -> Markup:
    return escape(printable(text))
