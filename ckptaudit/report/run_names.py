"""Names of runs and of their parts, fit for experiment trackers."""

from __future__ import annotations

import re
from pathlib import Path

from ckptaudit.results.records import AuditResult


def run_names(result: AuditResult) -> dict[str, str]:
    """A short name for each tuned checkpoint, fit for a folder and used once."""
    names: dict[str, str] = {}
    for run in result.runs:
        short = part(Path(run).name) or "tuned"
        taken = set(names.values())
        names[run] = next(n for i in range(len(taken) + 1) if (n := f"{short}-{i}" if i else short) not in taken)
    return names


def part(text: str) -> str:
    """One segment of a name: no separators, nothing but what every tracker takes, of bounded length."""
    clean = re.sub(r"[^A-Za-z0-9_.-]", "_", text)[:100]
    return clean if clean.strip(".") else "_" * len(clean)
