"""How a quantity becomes a metric: one decorated function, with its unit, formula and source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from torch import Tensor

from ckptaudit.metrics.batch import PairBatch
from ckptaudit.metrics.measurement import Kind

Needs = Literal["entries", "matrix", "spectrum"]
Function = Callable[[PairBatch], Tensor]
BoundFunction = Callable[[PairBatch], Tensor | None]


@dataclass(frozen=True, slots=True)
class Metric:
    """A pure function of a batch to one float64 number per matrix.

    `needs` is "entries" for what a pass over the entries gives, of vectors too; "matrix" for what a
    pass gives but matrices alone have; "spectrum" for what takes a decomposition. `upper_bound` and
    `lower_bound`, where there is one, are cheap and theorems: value <= upper_bound for every input. They
    return None for a batch of which they have nothing to say. What is not `standing` is measured only where
    a check asks for it, and no full audit reports it.
    """

    name: str
    unit: str
    formula: str
    source: str
    needs: Needs
    compute: Function
    upper_bound: BoundFunction | None = None
    lower_bound: BoundFunction | None = None
    bound_needs: Needs = "spectrum"
    tolerates_nonfinite: bool = False
    standing: bool = True

    @property
    def bound(self) -> BoundFunction | None:
        """The one bound that the metric has."""
        return self.upper_bound or self.lower_bound

    @property
    def bound_kind(self) -> Kind:
        """What a value of `bound` is to be called."""
        return "upper_bound" if self.upper_bound else "lower_bound"

    def settles(self, bound: float, limit: float) -> bool:
        """Whether a bound keeps within a limit on its own side; it can never show that a limit is broken."""
        return bound <= limit if self.upper_bound else bound >= limit


REGISTRY: dict[str, Metric] = {}


def metric(
    *,
    unit: str,
    formula: str,
    source: str,
    needs: Needs,
    upper_bound: BoundFunction | None = None,
    lower_bound: BoundFunction | None = None,
    bound_needs: Needs = "spectrum",
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
            lower_bound=lower_bound,
            bound_needs=bound_needs,
            tolerates_nonfinite=tolerates_nonfinite,
            standing=standing,
        )
        return function

    return register


def nearest(name: str, known: list[str]) -> str:
    """A phrase naming what was probably meant."""
    close = get_close_matches(name, known, n=3, cutoff=0.4)
    return f"did you mean {', '.join(close)}?" if close else f"known are {', '.join(known)}."
