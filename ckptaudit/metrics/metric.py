"""What every metric is, whatever it looks at; and the table of all of them."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from importlib import import_module
from typing import Literal, Protocol, runtime_checkable

Scope = Literal["matrix", "group", "runs", "run", "pair", "parity", "plan", "artifact", "probes", "rollouts"]
"""What one value is about: a matrix, several weights taken together, runs compared with each other, all tensors of
one run, the headers of the pair, whether each tensor is what other files make of it, which tensors the planned
checks judge, the files beside the weights, passes on probes, what a trainer logged."""

Scale = Literal["size", "share", "count", "difference", "angle", "factor"]
"""How values compare. A size is multiplied; a share lies between 0 and 1, and its odds are multiplied; a count is
held to its limit alone; a difference has a sign and is multiplied on the side that counts as worse; an angle is a
size in degrees that ends at 90; a factor is best at 1, and what it has beyond that is multiplied."""


@runtime_checkable
class Metric(Protocol):
    """A named quantity with its unit, formula and source."""

    @property
    def name(self) -> str:
        """The name that checks use."""

    @property
    def unit(self) -> str:
        """The unit; "1" for a pure number."""

    @property
    def formula(self) -> str:
        """The definition in ASCII."""

    @property
    def source(self) -> str:
        """Where the definition comes from."""

    @property
    def scope(self) -> Scope:
        """What one value is about."""

    @property
    def scale(self) -> Scale:
        """How values compare."""

    @property
    def needs(self) -> tuple[str, ...]:
        """What it needs beside base and tuned, by the names of `options.AUXILIARY`."""


class MetricTable(Mapping[str, Metric]):
    """Every metric by name. The families, and torch with them, are imported when it is first looked at."""

    def __init__(self) -> None:
        self._known: dict[str, Metric] = {}
        self.is_complete = False

    def __getitem__(self, name: str) -> Metric:
        self._complete()
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        self._complete()
        return iter(self._known)

    def __len__(self) -> int:
        self._complete()
        return len(self._known)

    # A mapping's own views look every name up again, and each of these looks whether the families are there.
    def items(self) -> ItemsView[str, Metric]:
        self._complete()
        return self._known.items()

    def values(self) -> ValuesView[Metric]:
        self._complete()
        return self._known.values()

    def add(self, metric: Metric) -> None:
        """Enter one more; looks at what is there, and imports nothing."""
        if metric.name in self._known:
            raise ValueError(f"two metrics are named {metric.name}")
        self._known[metric.name] = metric

    def _complete(self) -> None:
        if not self.is_complete:
            import_module("ckptaudit.metrics.families")


METRICS = MetricTable()


def register(metric: Metric) -> None:
    """Add a metric to the table. Raises ValueError for a name that is taken."""
    METRICS.add(metric)


def of_scope(scope: Scope) -> Mapping[str, Metric]:
    """The metrics of one scope, by name."""
    return {name: metric for name, metric in METRICS.items() if metric.scope == scope}
