"""Checks judged as plainly as can be: an estimate breaks a limit when its interval lies past it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.measure import measure
from ckptaudit.rollouts.readings import Reading
from tests.rollouts.simulated import rollouts_of

CHECKS = tomllib.loads((Path(__file__).parents[2] / "checks" / "rollouts.toml").read_text())["check"]
FACTS = RunFacts(group_size=8, advantage="trl", max_staleness=0, clip_low=0.2, clip_high=0.2)


def readings(
    table: pa.Table, *metrics: str, facts: RunFacts = FACTS, scalars: Mapping[str, Any] | None = None,
    checkpoint_steps: tuple[int, ...] = (),
) -> list[Reading]:  # fmt: skip
    return list(measure(rollouts_of(table), facts, metrics, scalars=scalars, checkpoint_steps=checkpoint_steps))


def limit_is_broken(check: Mapping[str, Any], reading: Reading) -> bool:
    if reading.value is None:
        return False
    if "at_most" in check:
        return bool((reading.value if reading.low is None else reading.low) > check["at_most"])
    return bool((reading.value if reading.high is None else reading.high) < check["at_least"])


def about(check: Mapping[str, Any], found: list[Reading]) -> list[Reading]:
    """The readings that a check judges: of the run, or of steps."""
    return [r for r in found if r.metric == check["metric"] and (r.subject == "run") == (check["per"] == "run")]


def broken_checks(table: pa.Table, scalars: Mapping[str, Any] | None = None, **more: Any) -> set[str]:
    found = readings(table, *sorted({check["metric"] for check in CHECKS}), scalars=scalars, **more)
    return {check["id"] for check in CHECKS if any(limit_is_broken(check, r) for r in about(check, found))}
