"""Each metric over the steps of a run, as PNG. Needs matplotlib, which the extra `plot` brings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ckptaudit.errors import printable
from ckptaudit.results.records import AuditResult, MetricCurve, Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 4
PANEL_INCHES = (3.6, 2.6)
DOTS_PER_INCH = 120


def write_plot(result: AuditResult, path: Path) -> None:
    """Draw every run of which there are several saves. Raises OSError."""
    write_plots(result.trajectories, path)


def write_plots(trajectories: Sequence[Trajectory], path: Path) -> list[Path]:
    """Draw median and range over the matrices: one PNG of all metrics, or in a folder one for each metric.

    A path that ends in `.png` is a file; a second run gets `-2` before the suffix. Raises OSError.
    """
    written = []
    for number, row in enumerate(trajectories, start=1):
        suffix = "" if number == 1 else f"-{number}"
        if path.suffix.lower() == ".png":
            written.append(_write(row, row.series, path.with_name(f"{path.stem}{suffix}{path.suffix}")))
        else:
            written += [_write(row, [one], path / f"{one.metric}{suffix}.png") for one in row.series]
    return written


def _write(row: Trajectory, series: Sequence[MetricCurve], path: Path) -> Path:
    # The figure's own class rather than pyplot: no window system, no state shared with the user's plots.
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(series))
    rows = math.ceil(len(series) / columns)
    figure = Figure(figsize=(PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel, one in zip(panels, series, strict=False):
        _draw(panel, row, one)
    for empty in panels[len(series) :]:
        empty.set_axis_off()
    figure.suptitle(f"{printable(row.name)}: median and range over matrices", fontsize=9, parse_math=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH)
    return path


def _draw(panel: Axes, row: Trajectory, series: MetricCurve) -> None:
    steps = [step.step for step in row.steps]
    parts = (series.median, series.lowest, series.highest)
    middle, lowest, highest = ([math.nan if v is None else v for v in part] for part in parts)
    panel.fill_between(steps, lowest, highest, alpha=0.2, linewidth=0)
    panel.plot(steps, middle, marker="o", markersize=3)
    panel.set_title(series.metric, fontsize=8)
    panel.set_xlabel("position" if row.counted else "step", fontsize=7)
    panel.tick_params(labelsize=7)
