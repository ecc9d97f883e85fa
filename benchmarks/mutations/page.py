"""The catalogue as the page docs/mutations.md keeps it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.mutations.mutation import Strength
from benchmarks.mutations.trials import Caught, Losses, Trial, first_catches

PAGE = Path(__file__).parent.parent.parent / "docs" / "mutations.md"
BEGIN, END = "<!-- generated: begin -->\n", "<!-- generated: end -->\n"

HURTS = 0.1
"""Nats per token by which a loss has to grow to count as harm."""

HEAD = (
    "| damage | place | closes from | first check | further checks | task, retain | open up to | task, retain |\n"
    "|---|---|---|---|---|---|---|---|"
)


def row(trial: Trial) -> str:
    """A trial as a line of the table."""
    mutation, caught = trial.mutation, trial.caught
    first, *further = caught.closed_by or ("none",)
    more = ", ".join(further[:3]) + (f" and {len(further) - 3}" if len(further) > 3 else "")
    if not caught.closes and caught.warned:
        more = f"warns: {', '.join(caught.warned)}"
    cells = (
        mutation.kind + (f" ({mutation.unit})" if mutation.unit else ""),
        mutation.place + (" *" if mutation.pair == "hybrid" else ""),
        _strength(trial.closed_at) if caught.closes else "never",
        first,
        more,
        _harm(trial.harm),
        _strength(trial.open_at),
        _harm(trial.harm_open),
    )
    return f"| {' | '.join(cells)} |"


def text(trials: Sequence[Trial], healthy: Mapping[str, Caught]) -> str:
    """The generated part of the page."""
    closed = [trial for trial in trials if trial.caught.closes]
    missed = [trial for trial in trials if hurts(trial.harm_open)]
    parts = [
        f"{len(trials)} damages at their places; {len(closed)} close the gate at one of their strengths.",
        "\n".join([HEAD, *map(row, trials)]),
        "## Harm that stays open",
        _missed(missed),
        "## Which check is the first",
        _shares(first_catches(trials), healthy),
        "## Healthy releases",
        _healthy(healthy),
    ]
    return "\n\n".join(parts)


def keep(trials: Sequence[Trial], healthy: Mapping[str, Caught]) -> None:
    """Write the generated part of the page anew."""
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{text(trials, healthy)}\n\n{END}{rest.partition(END)[2]}")


def hurts(harm: Losses) -> bool:
    """Whether a loss grew by more than HURTS, or is no number."""
    return harm is not None and any(not change < HURTS for change in harm)


def _missed(missed: Sequence[Trial]) -> str:
    if not missed:
        return f"None: no damage that leaves the gate open raises either loss by {HURTS:g} nats."
    lines = [
        f"| {trial.mutation.kind} | {trial.mutation.place} | {_strength(trial.open_at)} "
        f"| {_harm(trial.harm_open)} | {', '.join(trial.caught.warned) if not trial.caught.closes else ''} |"
        for trial in missed
    ]
    return "\n".join(["| damage | place | open at | task, retain | warns |", "|---|---|---|---|---|", *lines])


def _shares(first: Counter[str], healthy: Mapping[str, Caught]) -> str:
    total, alarms = sum(first.values()), Counter(c for caught in healthy.values() for c in caught.closed_by)
    lines = [
        f"| {check} | {count} | {count / total:.0%} | {alarms[check]} of {len(healthy)} |"
        for check, count in sorted(first.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    heads = ["| check | first catches | share | false alarms on healthy releases |", "|---|---|---|---|"]
    return "\n".join([*heads, *lines])


def _healthy(healthy: Mapping[str, Caught]) -> str:
    lines = [
        f"| {name} | {'open' if not caught.closes else ', '.join(caught.closed_by)} "
        f"| {', '.join(caught.warned) or 'none'} |"
        for name, caught in healthy.items()
    ]
    return "\n".join(["| release | gate | warnings |", "|---|---|---|", *lines])


def _strength(strength: Strength | None) -> str:
    if strength is None:
        return ""
    if isinstance(strength, str) or strength is True:
        return str(strength) or "yes"
    return f"{strength:g}"


def _harm(harm: Losses) -> str:
    return "" if harm is None else ", ".join(_signed(change) for change in harm)


def _signed(change: float) -> str:
    return f"{change:+.2f}".replace("-0.00", "0.00").replace("+0.00", "0.00") if math.isfinite(change) else "NaN"
