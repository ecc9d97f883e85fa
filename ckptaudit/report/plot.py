"""Each metric over the steps of a run, with its limits, as PNG or SVG. Needs matplotlib, of the extra `plot`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ckptaudit.errors import printable
from ckptaudit.report.rollout_curves import LoggedCurve, logged_curves
from ckptaudit.report.steps import DrawnLimit, StepCurve, drawn_curve
from ckptaudit.results.records import AuditResult, Trajectory
from ckptaudit.results.rollouts import RolloutsRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 4
PANEL_INCHES = (3.6, 2.6)
DOTS_PER_INCH = 120
FILES = (".png", ".svg")


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One metric over the steps: a line within a band, limits, and the step that is broken first."""

    metric: str
    unit: str
    along: str
    steps: Sequence[int]
    middle: Sequence[float]
    lowest: Sequence[float]
    highest: Sequence[float]
    limits: Sequence[DrawnLimit]
    first_broken: int | None = None


@dataclass(frozen=True)
class Picture:
    """The panels of a run; `number` counts pictures of the same kind from 1."""

    title: str
    number: int
    panels: Sequence[Panel]


def write_plot(result: AuditResult, path: Path) -> list[Path]:
    """Draw every run of which there are several saves, and every log of rollouts; returns what was written.

    Of saves the median and range over the matrices, of a log the values with their intervals; limits are dashed
    lines, the first failure of a log a circle. A path that ends in `.png` or `.svg` is one picture of all metrics,
    any other a folder of one PNG for each; a further picture gets `-2` before the suffix, and so does in a folder
    what a further run or log has. Metrics that have a limit come first. Raises OSError.
    """
    written = []
    for count, picture in enumerate(_pictures(result), start=1):
        if path.suffix.lower() in FILES:
            place = path.with_name(f"{path.stem}{_suffix(count)}{path.suffix}")
            written.append(_write(picture.title, picture.panels, place))
            continue
        for one in picture.panels:
            name = f"{one.metric}{_suffix(picture.number)}.png"
            written.append(_write(picture.title, [one], path / name))
    return written


def _suffix(number: int) -> str:
    return "" if number == 1 else f"-{number}"


def _pictures(result: AuditResult) -> Iterator[Picture]:
    for number, row in enumerate(result.trajectories, start=1):
        curves = sorted((drawn_curve(result, row, one) for one in row.series), key=lambda c: not c.limits)
        title = f"{printable(row.name)}: median and range over matrices; dashed: limits"
        yield Picture(title, number, [_of_saves(row, one) for one in curves])
    for number, log in enumerate((log for log in result.rollouts if log.curves), start=1):
        yield Picture(_title(log), number, [_of_log(one) for one in logged_curves(result, log)])


def _title(log: RolloutsRecord) -> str:
    return f"{printable(log.path)}: values with intervals; dashed: limits; circle: the first step that is broken"


def _of_saves(row: Trajectory, curve: StepCurve) -> Panel:
    parts = (curve.median, curve.lowest, curve.highest)
    middle, lowest, highest = ([math.nan if v is None else v for v in part] for part in parts)
    return Panel(
        metric=curve.metric,
        unit=curve.unit,
        along="position" if row.counted else "step",
        steps=curve.steps,
        middle=middle,
        lowest=lowest,
        highest=highest,
        limits=curve.limits,
    )


def _of_log(curve: LoggedCurve) -> Panel:
    return Panel(
        metric=curve.metric,
        unit=curve.unit,
        along="step",
        steps=curve.steps,
        middle=curve.values,
        lowest=curve.low,
        highest=curve.high,
        limits=curve.limits,
        first_broken=curve.first_broken,
    )


def _write(title: str, panels: Sequence[Panel], path: Path) -> Path:
    # The figure's own class rather than pyplot: no window system, no state shared with the user's plots.
    from matplotlib.figure import Figure

    columns = max(1, min(COLUMNS, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    figure = Figure(figsize=(PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows), layout="constrained")
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for place, one in zip(places, panels, strict=False):
        _draw(place, one)
    for empty in places[len(panels) :]:
        empty.set_axis_off()
    figure.suptitle(title, fontsize=9, parse_math=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH)
    return path


def _draw(place: Axes, panel: Panel) -> None:
    place.fill_between(panel.steps, panel.lowest, panel.highest, alpha=0.2, linewidth=0)
    place.plot(panel.steps, panel.middle, marker="o", markersize=3)
    for limit in panel.limits:
        place.axhline(limit.limit, color="tab:red", linestyle="--", linewidth=1)
        words = f"{limit.check} {limit.sign} {limit.limit:g}"
        place.annotate(
            words, (0.99, limit.limit), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=6
        )
    first = panel.first_broken
    if first is not None and first in panel.steps:
        value = panel.middle[panel.steps.index(first)]
        place.plot(first, value, marker="o", markersize=9, markerfacecolor="none", color="tab:red")
        place.annotate(f"first: step {first}", (first, value), fontsize=6)
    place.set_title(panel.metric, fontsize=8)
    place.set_xlabel(panel.along, fontsize=7)
    place.set_ylabel(panel.unit, fontsize=7)
    place.tick_params(labelsize=7)
