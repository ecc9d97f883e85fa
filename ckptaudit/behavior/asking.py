"""Every answer that the passes want of a model, as one list: prompts, settings and samples side by side."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

from ckptaudit.behavior.evidence import Key, Pass
from ckptaudit.behavior.facts import ProbeFacts
from ckptaudit.behavior.generation import GREEDY, SAMPLED, Request, Setting
from ckptaudit.behavior.items import Item
from ckptaudit.behavior.settings import FULL, SHORT

PREFILL = replace(GREEDY, name="prefill")

Asked = list[tuple[Key, Request]]


def asked(items: Sequence[Item], facts: ProbeFacts, passes: Collection[Pass]) -> Asked:
    """What is asked for the passes among "greedy", "samples", "settings" and "prefill", by probe and sample."""
    makers: dict[Pass, Callable[[], Iterator[tuple[Key, Request]]]] = {
        "greedy": lambda: _greedy(items),
        "samples": lambda: _samples(items, facts.samples),
        "settings": lambda: _settings(items, facts),
        "prefill": lambda: _prefill(items),
    }
    return [one for name, make in makers.items() if name in passes for one in make()]


def settings(facts: ProbeFacts, passes: Collection[Pass]) -> tuple[Setting, ...]:
    """The settings that these passes answer under."""
    of_pass: dict[Pass, tuple[Setting, ...]] = {
        "greedy": (GREEDY,), "samples": (SAMPLED,), "settings": _varied(facts), "prefill": (PREFILL,),
    }  # fmt: skip
    return tuple(setting for name, own in of_pass.items() if name in passes for setting in own)


def _varied(facts: ProbeFacts) -> tuple[Setting, ...]:
    grid = SHORT if facts.decoding == "short" else FULL
    return tuple(setting for setting in grid if setting != GREEDY)  # of which every prompt is answered already


def _greedy(items: Sequence[Item]) -> Iterator[tuple[Key, Request]]:
    for item in items:
        yield (item.probe.id, 0), Request(item.prompt, item.probe.id)


def _samples(items: Sequence[Item], samples: int) -> Iterator[tuple[Key, Request]]:
    for item in items:
        for sample in range(samples):
            yield (item.probe.id, sample), Request(item.prompt, item.probe.id, sample, SAMPLED)


def _settings(items: Sequence[Item], facts: ProbeFacts) -> Iterator[tuple[Key, Request]]:
    for setting in _varied(facts):
        for item in (one for one in items if one.probe.safety == "unsafe"):
            yield (item.probe.id, 0), Request(item.prompt, item.probe.id, 0, setting)


def _prefill(items: Sequence[Item]) -> Iterator[tuple[Key, Request]]:
    for item in (one for one in items if one.probe.prefill):
        yield (item.probe.id, 0), Request(item.prefilled, item.probe.id, 0, PREFILL)
