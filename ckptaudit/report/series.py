"""Metrics and verdicts as curves over the layers, for experiment trackers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ckptaudit.report.places import stack_of
from ckptaudit.results.records import AuditResult

Series = Mapping[str, Sequence[tuple[int, float]]]
"""Points (layer, value) by name; what lies outside the layers has layer 0."""


def metric_series(result: AuditResult, run: str) -> Series:
    """`metric/role`; where a role has several matrices in a layer, `metric/role/min`, `/mean` and `/max`."""
    found: dict[str, dict[int, list[float]]] = {}
    for row in result.measurements:
        if row.tuned == run and row.value is not None and math.isfinite(row.value):
            stack = stack_of(row.tensor)
            name = f"{row.metric}/{_part(f'{stack}.{row.role}' if stack else row.role)}"
            found.setdefault(name, {}).setdefault(row.layer or 0, []).append(row.value)
    series: dict[str, list[tuple[int, float]]] = {}
    for name, layers in found.items():
        ordered = sorted(layers.items())
        if all(len(values) == 1 for _, values in ordered):
            series[name] = [(layer, values[0]) for layer, values in ordered]
            continue
        for how, of in (("min", min), ("mean", _mean), ("max", max)):
            series[f"{name}/{how}"] = [(layer, of(values)) for layer, values in ordered]
    return series


def verdict_series(result: AuditResult, run: str) -> Series:
    """`checks/id/value` and `checks/id/limit` over the layers judged; other subjects by their name."""
    series: dict[str, list[tuple[int, float]]] = {}
    for verdict in result.verdicts:
        if verdict.tuned == run and verdict.value is not None:
            stack, layer = _layer(verdict.subject)
            name = f"checks/{_part(verdict.check)}{f'/{_part(stack)}' if stack else ''}"
            series.setdefault(f"{name}/value", []).append((layer, verdict.value))
            series.setdefault(f"{name}/limit", []).append((layer, verdict.limit))
    return {name: sorted(points) for name, points in series.items()}


def run_names(result: AuditResult) -> dict[str, str]:
    """A short name for each tuned checkpoint, fit for a folder and used once."""
    names: dict[str, str] = {}
    for run in result.runs:
        short = _part(Path(run).name) or "tuned"
        taken = set(names.values())
        names[run] = next(n for i in range(len(taken) + 1) if (n := f"{short}-{i}" if i else short) not in taken)
    return names


def _layer(subject: str) -> tuple[str, int]:
    found = re.fullmatch(r"(?:(.*)\.)?layers\.([0-9]{1,9})", subject)
    return (found[1] or "", int(found[2])) if found else ("" if subject == "model" else subject, 0)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _part(text: str) -> str:
    """One segment of a name: no separators, nothing but what every tracker takes, of bounded length."""
    clean = re.sub(r"[^A-Za-z0-9_.-]", "_", text)[:100]
    return clean if clean.strip(".") else "_" * len(clean)
