"""How a quantity becomes a metric: one decorated function, with its unit, formula and source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from torch import Tensor

from ckptaudit.metrics.batch import PairBatch

Needs = Literal["entries", "matrix", "spectrum"]
Function = Callable[[PairBatch], Tensor]


@dataclass(frozen=True, slots=True)
class Metric:
    """A pure function of a batch to one float64 number per matrix.

    `needs` is "entries" for what a pass over the entries gives, of vectors too; "matrix" for what a
    pass gives but matrices alone have; "spectrum" for what takes a decomposition. `upper_bound`,
    where there is one, is cheap and a theorem: value <= upper_bound for every input. What is not
    `standing` is measured only where a check asks for it, and no full audit reports it.
    """

    name: str
    unit: str
    formula: str
    source: str
    needs: Needs
    compute: Function
    upper_bound: Function | None = None
    tolerates_nonfinite: bool = False
    standing: bool = True


REGISTRY: dict[str, Metric] = {}


def metric(
    *,
    unit: str,
    formula: str,
    source: str,
    needs: Needs,
    upper_bound: Function | None = None,
    tolerates_nonfinite: bool = False,
    standing: bool = True,
) -> Callable[[Function], Function]:
    """Register the decorated function under its own name."""

    def register(function: Function) -> Function:
        REGISTRY[function.__name__] = Metric(
            name=function.__name__,
            unit=unit,
            formula=formula,
            source=source,
            needs=needs,
            compute=function,
            upper_bound=upper_bound,
            tolerates_nonfinite=tolerates_nonfinite,
            standing=standing,
        )
        return function

    return register


def nearest(name: str, known: list[str]) -> str:
    """A phrase naming what was probably meant."""
    close = get_close_matches(name, known, n=3, cutoff=0.4)
    return f"did you mean {', '.join(close)}?" if close else f"known are {', '.join(known)}."
