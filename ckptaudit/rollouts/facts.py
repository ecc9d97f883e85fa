"""What a log does not say of its run: the table [rollouts] of the configuration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec

from ckptaudit.errors import ConfigError, printable
from ckptaudit.foreign_files.toml import read_toml

CONVENTIONS = (
    "verl", "trl", "openrlhf", "slime", "nemo-rl", "prime-rl", "maxrl", "areal", "rloo", "trl-batch", "reinforce++",
    "mc-grpo",
)  # fmt: skip
"""How advantages are made from rewards; `advantages`, which needs NumPy, holds the formulas."""


class RunFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Facts of a run as its configuration had them; None where nothing was declared."""

    group_size: int | None = None
    advantage: str | None = None
    clip_low: float | None = None
    clip_high: float | None = None
    max_staleness: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_response_length: int | None = None
    algorithm: str | None = None
    reward_weights: Mapping[str, float] = {}


def run_facts(table: Mapping[str, Any], path: Path) -> RunFacts:
    """The facts of a [rollouts] table. Raises ConfigError naming the file, the keys and what is allowed."""
    for key in table:
        if key not in RunFacts.__struct_fields__:
            near = get_close_matches(str(key), RunFacts.__struct_fields__, n=1)
            meant = f"did you mean {near[0]}?" if near else f"known are {', '.join(RunFacts.__struct_fields__)}."
            raise ConfigError(f"{printable(path)}: [rollouts]: unknown key {printable(key)}; {meant}")
    try:
        facts = msgspec.convert(dict(table), RunFacts)
    except msgspec.ValidationError as error:
        text = printable(error).replace(" - at `$.", " at key `")
        raise ConfigError(f"{printable(path)}: [rollouts]: {text}.") from error
    problems = list(_problems(facts))
    if problems:
        raise ConfigError(f"{printable(path)}: [rollouts]: {'; '.join(problems)}.")
    return facts


def read_facts(path: Path) -> RunFacts:
    """The facts of a configuration file; none where it has no table [rollouts]. Raises ConfigError."""
    return facts_of(read_toml(path, "configuration", ConfigError).content, path)


def facts_of(content: Mapping[str, Any], path: Path) -> RunFacts:
    """The facts of a configuration that was read from `path`. Raises ConfigError."""
    table = content.get("rollouts", {})
    if not isinstance(table, dict):
        raise ConfigError(f"{printable(path)}: key rollouts: a table [rollouts] is allowed.")
    return run_facts(table, path)


def _problems(facts: RunFacts) -> Iterator[str]:
    for key, lowest in (("group_size", 1), ("max_staleness", 0), ("max_response_length", 1)):
        value = getattr(facts, key)
        if value is not None and value < lowest:
            yield f"key {key}: {value} is below {lowest}"
    for key in ("clip_low", "clip_high"):
        value = getattr(facts, key)
        if value is not None and not 0 <= value < math.inf:
            yield f"key {key}: {value:g} is no distance from 1; 0.2 allows a ratio of 0.8 or 1.2"
    if facts.clip_low is not None and facts.clip_low > 1:
        yield f"key clip_low: {facts.clip_low:g} would allow a ratio below 0"
    if facts.temperature is not None and not 0 < facts.temperature < math.inf:
        yield f"key temperature: {facts.temperature:g} is not above 0"
    if facts.top_p is not None and not 0 < facts.top_p <= 1:
        yield f"key top_p: {facts.top_p:g} is not in (0, 1]"
    if facts.advantage is not None and facts.advantage not in CONVENTIONS:
        yield f"key advantage: '{printable(facts.advantage)}' is not one of {', '.join(CONVENTIONS)}"
    if not all(math.isfinite(weight) for weight in facts.reward_weights.values()):
        yield "key reward_weights: every weight must be a finite number"
