"""The first lines of a run: what is judged, by what, and where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ckptaudit.errors import printable
from ckptaudit.pipeline.opening import OpenedAudit
from ckptaudit.results.baseline import Baseline


@dataclass(frozen=True)
class About:
    """By what is judged: a profile, or given files where it has no name; a configuration; a released run."""

    profile: str
    config: Path | None
    baseline: Baseline | None


def header_lines(opened: OpenedAudit, about: About) -> list[str]:
    """One line each for the checkpoints, for checks and device, and for the released run if there is one."""
    by = f", configuration {printable(about.config)}" if about.config else ""
    lines = [_judged(opened), f"ckptaudit: checks {about.profile or 'given files'}, device {opened.device}{by}"]
    if baseline := about.baseline:
        lines.append(
            f"ckptaudit: no more than {baseline.factor:g} times worse than {printable(baseline.tuned)} "
            f"({printable(baseline.path)})"
        )
    return lines


def _judged(opened: OpenedAudit) -> str:
    runs = ", ".join(printable(run.path) for run in opened.runs)
    if not opened.has_pair:
        return f"ckptaudit: rollouts {runs}, without weights"
    return f"ckptaudit: base {printable(opened.options.base)}, tuned {runs}"
