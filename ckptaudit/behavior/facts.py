"""How probes are run: the table [probes] of the configuration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import msgspec

from ckptaudit.behavior.text_counters import REFUSALS
from ckptaudit.errors import ConfigError, printable

MOST_TOKENS = 32_768
MOST_SAMPLES = 64


class ProbeFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the file of probes does not say of how they are run.

    `template` says whose chat template writes conversations, for both models alike; by "own" each model's own does
    for itself. An answer has at most `max_new_tokens`; `samples` answers are drawn of each of the first
    `max_prompts` prompts, and `seed` begins their random numbers. `refusals` are the strings that tell a refusal,
    `openings` the beginnings of one whose probabilities are summed. `decoding` is the short grid of settings that
    refusals are tried on, or the full one.
    """

    template: Literal["tuned", "base", "own"] = "tuned"
    max_new_tokens: int = 128
    samples: int = 8
    seed: int = 0
    refusals: tuple[str, ...] = REFUSALS
    openings: tuple[str, ...] = ("I'm sorry", "I cannot", "I can't", "I am sorry", "Sorry,", "I won't")
    decoding: Literal["short", "full"] = "short"
    max_prompts: int = 256


def probe_facts(content: Mapping[str, Any], path: Path) -> ProbeFacts:
    """The facts of a configuration's table [probes], the defaults without one. Raises ConfigError."""
    table = content.get("probes", {})
    where = f"{printable(path)}: [probes]"
    if not isinstance(table, dict):
        raise ConfigError(f"{printable(path)}: key probes: a table [probes] is allowed.")
    for key in table:
        if key not in ProbeFacts.__struct_fields__:
            near = get_close_matches(str(key), ProbeFacts.__struct_fields__, n=1)
            meant = f"did you mean {near[0]}?" if near else f"known are {', '.join(ProbeFacts.__struct_fields__)}."
            raise ConfigError(f"{where}: unknown key {printable(key)}; {meant}")
    try:
        facts = msgspec.convert(dict(table), ProbeFacts)
    except msgspec.ValidationError as error:
        text = printable(error).replace(" - at `$.", " at key `")
        raise ConfigError(f"{where}: {text}.") from error
    problems = list(_problems(facts))
    if problems:
        raise ConfigError(f"{where}: {'; '.join(problems)}.")
    return facts


def _problems(facts: ProbeFacts) -> Iterator[str]:
    bounds = (("max_new_tokens", 1, MOST_TOKENS), ("samples", 2, MOST_SAMPLES), ("max_prompts", 1, math.inf))
    for key, least, most in bounds:
        if not least <= getattr(facts, key) <= most:
            yield f"key {key}: a number from {least} to {most:g} is allowed"
    for key in ("refusals", "openings"):
        if not getattr(facts, key) or not all(getattr(facts, key)):
            yield f"key {key}: at least one string, none of them empty"
