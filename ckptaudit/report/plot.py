"""Each metric over the steps of a run, with its limits, as PNG or SVG. Needs matplotlib, of the extra `plot`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ckptaudit.errors import printable
from ckptaudit.report.steps import StepCurve, drawn_curve
from ckptaudit.results.records import AuditResult, Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 4
PANEL_INCHES = (3.6, 2.6)
DOTS_PER_INCH = 120
FILES = (".png", ".svg")


def write_plot(result: AuditResult, path: Path) -> list[Path]:
    """Draw every run of which there are several saves: median and range over the matrices, limits as dashed lines.

    A path that ends in `.png` or `.svg` is one picture of all metrics, any other a folder of one PNG for each; a
    second run gets `-2` before the suffix. Metrics that have a limit come first. Raises OSError.
    """
    written = []
    for number, row in enumerate(result.trajectories, start=1):
        suffix = "" if number == 1 else f"-{number}"
        curves = sorted((drawn_curve(result, row, one) for one in row.series), key=lambda c: not c.limits)
        if path.suffix.lower() in FILES:
            written.append(_write(row, curves, path.with_name(f"{path.stem}{suffix}{path.suffix}")))
        else:
            written += [_write(row, [one], path / f"{one.metric}{suffix}.png") for one in curves]
    return written


def _write(row: Trajectory, curves: Sequence[StepCurve], path: Path) -> Path:
    # The figure's own class rather than pyplot: no window system, no state shared with the user's plots.
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = Figure(figsize=(PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel, one in zip(panels, curves, strict=False):
        _draw(panel, row, one)
    for empty in panels[len(curves) :]:
        empty.set_axis_off()
    title = f"{printable(row.name)}: median and range over matrices; dashed: limits"
    figure.suptitle(title, fontsize=9, parse_math=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH)
    return path


def _draw(panel: Axes, row: Trajectory, curve: StepCurve) -> None:
    parts = (curve.median, curve.lowest, curve.highest)
    middle, lowest, highest = ([math.nan if v is None else v for v in part] for part in parts)
    panel.fill_between(curve.steps, lowest, highest, alpha=0.2, linewidth=0)
    panel.plot(curve.steps, middle, marker="o", markersize=3)
    for limit in curve.limits:
        panel.axhline(limit.limit, color="tab:red", linestyle="--", linewidth=1)
        words = f"{limit.check} {limit.sign} {limit.limit:g}"
        panel.annotate(
            words, (0.99, limit.limit), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=6
        )
    panel.set_title(curve.metric, fontsize=8)
    panel.set_xlabel("position" if row.counted else "step", fontsize=7)
    panel.set_ylabel(curve.unit, fontsize=7)
    panel.tick_params(labelsize=7)
