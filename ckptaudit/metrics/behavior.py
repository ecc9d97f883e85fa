"""Quantities of what both models did on probes: the record of one, and how it is registered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from ckptaudit.behavior.evidence import Evidence, Pass
from ckptaudit.behavior.given_verdicts import Tells
from ckptaudit.behavior.items import Alike, Item
from ckptaudit.behavior.probe import Probe
from ckptaudit.metrics.measurement import Reach
from ckptaudit.metrics.metric import METRICS, Scale, Scope, register
from ckptaudit.pairing.runs import Over

ProbesPer = Literal["probe_set", "probes"]
"""Of each probe set, or of all probes together."""

FEWEST = 5
"""Probes below which nothing is estimated."""

ANSWERING = frozenset(("greedy", "answers", "samples", "settings", "prefill"))
"""Passes in which models answer; of very many prompts only the first are."""

NAMED = 3
"""Probes that a reading names."""


@dataclass(frozen=True)
class ProbeReading:
    """A quantity of some probes, with its interval of 95 %.

    `samples` counts probes, `worst` names those that did most, `reach` is what the base leaves possible. A value of
    None could not be had, and `remark` says why.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    samples: int = 0
    worst: tuple[str, ...] = ()
    remark: str = ""
    reach: Reach | None = None


@dataclass(frozen=True, repr=False)
class ProbeGroup:
    """The probes that a quantity is about, and what both models did on them."""

    items: tuple[Item, ...]
    evidence: Evidence

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The probes' ids."""
        return tuple(item.probe.id for item in self.items)


Compute = Callable[[ProbeGroup], ProbeReading]
Fits = Callable[[Probe], bool]


@dataclass(frozen=True, slots=True)
class ProbesMetric:
    """A quantity of probes: the passes it rests on, and which probes it is about (`asks` says so in words).

    Where it rests on verdicts from elsewhere, it is about those alone that they tell of (`among`). One that
    compares both models token by token is about probes whose texts or prompt are the same tokens for both
    (`alike`). One `over` steps compares a save of a run with those before it.
    """

    name: str
    unit: str
    formula: str
    source: str
    scale: Scale
    compute: Compute
    passes: tuple[Pass, ...]
    fits: Fits
    asks: str
    needs: tuple[str, ...] = ("probes",)
    per: tuple[ProbesPer, ...] = ("probe_set", "probes")
    scope: Scope = "probes"
    among: Tells | None = None
    alike: Alike | None = None
    over: Over | None = None

    def judges(self, position: int, steps: Sequence[int]) -> bool:
        """Whether it says anything of the save at a position among these steps."""
        return position > 0

    def reading(self, evidence: Evidence, set_name: str | None) -> ProbeReading | None:
        """The value of one probe set, of all probes without a name; None where no probe fits."""
        chosen = (item for item in evidence.items if set_name is None or item.set == set_name)
        told = None if self.among is None else self.among(evidence.verdicts)
        items = tuple(
            item
            for item in chosen
            if self.fits(item.probe) and (told is None or item.probe.id in told) and self._was_run(item, evidence)
        )
        if not items:
            return None
        shared = tuple(item for item in items if self.alike is None or item.alike(self.alike))
        left_out = _left_out(len(items) - len(shared), len(items))
        if len(shared) < FEWEST:
            few = f"{len(shared)} probes, fewer than {FEWEST}" if shared else ""
            return with_remark(ProbeReading(None, samples=len(items), remark=few), left_out)
        reading = with_remark(self.compute(ProbeGroup(shared, evidence)), left_out)
        labels = {item.probe.id: label_of(item.probe) for item in shared}
        return replace(reading, worst=tuple(labels.get(name, name) for name in reading.worst))

    def _was_run(self, item: Item, evidence: Evidence) -> bool:
        return item.probe.id in evidence.answered or not ANSWERING.intersection(self.passes)


def probes_metric(
    *,
    unit: str,
    scale: Scale,
    formula: str,
    source: str,
    passes: Sequence[Pass],
    fits: Fits,
    asks: str,
    needs: Sequence[str] = (),
    among: Tells | None = None,
    alike: Alike | None = None,
    over: Over | None = None,
) -> Callable[[Compute], Compute]:
    """Register a quantity of probes under the function's name."""

    def registered(function: Compute) -> Compute:
        register(
            ProbesMetric(
                name=function.__name__,
                unit=unit,
                formula=formula,
                source=source,
                scale=scale,
                compute=function,
                passes=tuple(passes),
                fits=fits,
                asks=asks,
                needs=("probes", *needs),
                among=among,
                alike=alike,
                over=over,
            )
        )
        return function

    return registered


def _left_out(apart: int, count: int) -> str:
    if not apart:
        return ""
    return f"{apart} of {count} probes are left out: each model's own chat template makes other tokens of them"


def label_of(probe: Probe) -> str:
    """What a report calls a probe: its id, or its line where it has none of its own."""
    return f"line {probe.line}" if probe.id == probe.digest else probe.id


def probes_metric_of(name: str) -> ProbesMetric:
    """The metric of that name, which is a quantity of probes."""
    metric = METRICS[name]
    assert isinstance(metric, ProbesMetric)  # callers have looked at its scope
    return metric


def with_remark(reading: ProbeReading, remark: str) -> ProbeReading:
    """The reading with a further remark."""
    return replace(reading, remark="; ".join(filter(None, (reading.remark, remark))))
