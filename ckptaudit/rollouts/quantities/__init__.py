"""The quantities, one file a family; every module of this folder that has METRICS is found and used."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.readings import Metric, Reading
from ckptaudit.rollouts.run import RunSoFar

if TYPE_CHECKING:
    from ckptaudit.rollouts.batches import StepRows


class StepState(Protocol):
    """What a family gathers over the rows of one step."""

    def add(self, rows: StepRows) -> None:
        """Take in some of the step's rows."""

    def readings(self, step: int) -> Iterator[Reading]:
        """What they say."""


@runtime_checkable
class ContinuedState(StepState, Protocol):
    """One that goes on from the step before, where that alone was too small to say anything."""

    def follow(self, before: Any) -> None:
        """Take over what the step before, of the same family, could not say."""


class Family(Protocol):
    """What a module offers: its metrics, and either or both of the two functions."""

    METRICS: tuple[Metric, ...]

    def begin_step(self, facts: RunFacts, wanted: frozenset[str]) -> StepState:
        """A new state for a step's rows, which computes the wanted metrics."""

    def run_readings(self, run: RunSoFar) -> Iterator[Reading]:
        """What follows from the readings of all steps, once they are there."""


@cache
def families() -> tuple[Family, ...]:
    """Every family of the folder, in order of names."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return tuple(cast(Family, module) for module in modules if hasattr(module, "METRICS"))


@cache
def metrics() -> Mapping[str, Metric]:
    """Every metric by name."""
    return {metric.name: metric for family in families() for metric in family.METRICS}
