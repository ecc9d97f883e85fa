"""A calibration as the configuration file that a gate reads, with the runs behind every limit in comments."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from ckptaudit.calibration.learning import Kept, Learned, Settings
from ckptaudit.calibration.tolerance import confidence_of_largest, tolerance_factor
from ckptaudit.errors import printable
from ckptaudit.rollouts.facts import RunFacts

SHOWN = 3
"""How many runs a comment names; the worst ones."""


@dataclass(frozen=True, slots=True)
class Given:
    """What was learned from: the base, fingerprints of runs by path, trainers of logs by path.

    `profile` and `facts`, those of the rollouts, are carried into the configuration; an empty profile is not.
    """

    base: str
    runs: Mapping[str, str] = field(default_factory=dict)
    logs: Mapping[str, str] = field(default_factory=dict)
    profile: str = ""
    facts: RunFacts | None = None


def render(given: Given, found: Sequence[Learned | Kept], settings: Settings, count: int) -> str:
    """The file's text, the same for the same runs. `count` is of training runs."""
    lines = [*_head(given, settings, count)]
    lines += [f"profile = {_quoted(given.profile)}"] if given.profile else []
    lines += _facts(given.facts) if given.facts else []
    for item in found:
        lines += ["", *(_table(item, count) if isinstance(item, Learned) else _kept(item))]
    return "\n".join(lines) + "\n"


def support(settings: Settings, count: int) -> list[str]:
    """What so many runs support, in sentences."""
    share = f"{settings.coverage:.0%}"
    sure = confidence_of_largest(count, settings.coverage)
    plain = (
        f"That the worst of {count} covers {share} of such runs is {sure:.0%} certain, whatever their distribution."
    )
    if count == 1:
        return [
            "One run supports no statement about the next: its worst value with the margin is all there is.",
            plain,
        ]
    if sure >= settings.confidence:
        return [f"{count} runs: their worst value covers {share} of such runs with {sure:.0%} confidence."]
    factor = tolerance_factor(count, coverage=settings.coverage, confidence=settings.confidence)
    return [
        f"{count} runs: where their logarithms are normal, mean + {factor:.2f} deviations covers {share} of "
        "such runs",
        f"with {settings.confidence:.0%} confidence; limits are that or the worst value with margin "
        f"{settings.margin:g}, if wider.",
        plain,
    ]


def _facts(facts: RunFacts) -> Iterator[str]:
    """The table [rollouts] as it was in force."""
    declared = {name: value for name, value in msgspec.to_builtins(facts).items() if value not in (None, {})}
    if declared:
        yield from ("", "[rollouts]")
    for name, value in declared.items():
        if isinstance(value, dict):
            yield f"{name} = {{{', '.join(f'{_quoted(key)} = {weight!r}' for key, weight in value.items())}}}"
        else:
            yield f"{name} = {_quoted(value) if isinstance(value, str) else repr(value)}"


def _head(given: Given, settings: Settings, count: int) -> Iterator[str]:
    yield "# Limits that `ckptaudit calibrate` learned from trusted runs. Add yours below: a later table wins."
    if given.base:
        yield f"# base {_comment(given.base)}"
    yield from (f"# run {_comment(path)} fingerprint {mark}" for path, mark in given.runs.items())
    yield from (f"# rollouts {_comment(path)} of {_comment(trainer)}" for path, trainer in given.logs.items())
    yield from (f"# {line}" for line in support(settings, count))


def _table(item: Learned, count: int) -> Iterator[str]:
    for seen in item.deciding[:SHOWN]:
        yield f"# {seen.value:.4g} {_comment(seen.run)}, {_comment(seen.where)}"
    if len(item.deciding) > SHOWN:
        yield f"# and {len(item.deciding) - SHOWN} runs with less"
    key = "at_most" if item.check.at_most is not None else "at_least"
    yield "[[override]]"
    yield f"check = {_quoted(item.check.id)}"
    if item.role is not None:
        yield f"roles = [{_quoted(item.role)}]"
    if item.layer is not None:
        yield f"layers = [{item.layer}]"
    yield f"{key} = {item.limit!r}"
    yield 'origin = "calibration"'
    yield f"reason = {_quoted(f'{item.basis}, from {count} trusted run' + 's' * (count != 1))}"


def _kept(item: Kept) -> Iterator[str]:
    yield f"# {item.check.id} {item.check.sign} {item.check.limit:g} stays: {_comment(item.reason)}."


def _comment(text: str) -> str:
    return printable(text)


def _quoted(text: str) -> str:
    # JSON's escapes are TOML's as long as nothing is written as a surrogate pair.
    return json.dumps(printable(text), ensure_ascii=False)
