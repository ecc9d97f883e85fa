"""What every metric says of itself: read from a file, so that reports need not import what computes it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import msgspec

from ckptaudit.metrics.metric import METRICS, Metric, Scale, Scope
from ckptaudit.pairing.runs import Over

FILE = "descriptions.json"


class Description(msgspec.Struct, frozen=True, omit_defaults=True):
    """A metric's name and words. `meaning` is one sentence; `over` says what runs are that it compares."""

    name: str
    scope: Scope
    scale: Scale
    unit: str
    formula: str
    source: str
    meaning: str = ""
    over: Over | None = None
    counts_findings: bool = False


def describe(metric: Metric) -> Description:
    """The description of a metric that is there."""
    function = getattr(metric, "compute", None) or getattr(metric, "find", None)
    return Description(
        name=metric.name,
        scope=metric.scope,
        scale=metric.scale,
        unit=metric.unit,
        formula=metric.formula,
        source=metric.source,
        meaning=(getattr(function, "__doc__", None) or "").strip().split("\n")[0],
        over=getattr(metric, "over", None),
        counts_findings=hasattr(metric, "find"),
    )


@cache
def descriptions() -> Mapping[str, Description]:
    """Of every metric of this release, by name; `make reference` writes the file."""
    rows = msgspec.json.decode(files(__package__).joinpath(FILE).read_bytes(), type=list[Description])
    return {row.name: row for row in rows}


@cache
def description_of(name: str) -> Description | None:
    """The description of a metric; None for one that is not known.

    What is not in the file may be a metric that was just added: then the metrics themselves are looked at.
    """
    if name in descriptions():
        return descriptions()[name]
    try:
        metric = METRICS.get(name)
    except ImportError:  # a report is made where torch is not, and of a release that has other metrics
        return None
    return None if metric is None else describe(metric)


def scope_of(name: str) -> Scope | None:
    """What a value of a metric is about; None for one that is not known."""
    known = description_of(name)
    return known.scope if known else None


def over_of(name: str) -> Over | None:
    """What runs are to each other that a metric compares; None for one that compares none."""
    known = description_of(name)
    return known.over if known else None


def written() -> str:
    """The file, as the metrics that are there would have it."""
    rows = [msgspec.json.encode(describe(metric)).decode() for metric in METRICS.values()]
    return "[\n" + ",\n".join(rows) + "\n]\n"
