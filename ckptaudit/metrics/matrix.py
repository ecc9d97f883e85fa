"""Metrics of single matrices: one decorated function each, with its unit, formula and source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ckptaudit.metrics.batch import PairBatch
from ckptaudit.metrics.measurement import Kind
from ckptaudit.metrics.metric import METRICS, Scale, Scope, register

Cost = Literal["entries", "matrix", "spectrum"]
Function = Callable[[PairBatch], Tensor]
BoundFunction = Callable[[PairBatch], Tensor | None]


REACH = 4 / 3
"""A bound further than by this factor from what is wanted is not worth a sharper one."""


@dataclass(frozen=True, slots=True)
class MatrixMetric:
    """A pure function of a batch to one float64 number per matrix.

    `cost` is "entries" for what a pass over the entries gives, of vectors too; "matrix" for what a
    pass gives but matrices alone have; "spectrum" for what takes a decomposition. `upper_bound` and
    `lower_bound`, where there is one, are cheap and theorems: value <= upper_bound for every input. They
    return None for a batch of which they have nothing to say. `sharper_bound` is another on the same side, for a
    single matrix where the first just misses: it takes what is known of the base. `standard_error` gives that of a
    value which rests on an estimate. What is not `standing` is measured only where a check asks for it, and no
    full audit reports it.
    """

    name: str
    unit: str
    scale: Scale
    formula: str
    source: str
    cost: Cost
    compute: Function
    upper_bound: BoundFunction | None = None
    lower_bound: BoundFunction | None = None
    sharper_bound: BoundFunction | None = None
    bound_cost: Cost = "spectrum"
    standard_error: Function | None = None
    tolerates_nonfinite: bool = False
    standing: bool = True
    scope: Scope = "matrix"
    needs: tuple[str, ...] = ()

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

    def bound_for(self, batch: PairBatch, limit: float) -> float | None:
        """The bound of a single matrix, by the sharper one where the first misses the limit by little."""
        found = None if self.bound is None else self.bound(batch)
        if found is None or not bool(found.isfinite()):
            return None
        value = float(found)
        within_reach = self.settles(value, limit * REACH if self.upper_bound else limit / REACH)
        if self.sharper_bound is None or self.settles(value, limit) or not within_reach:
            return value
        sharper = self.sharper_bound(batch)
        if sharper is None:
            return value
        return min(value, float(sharper)) if self.upper_bound else max(value, float(sharper))


def metric(
    *,
    unit: str,
    scale: Scale,
    formula: str,
    source: str,
    needs: Cost,
    upper_bound: BoundFunction | None = None,
    lower_bound: BoundFunction | None = None,
    sharper_bound: BoundFunction | None = None,
    bound_needs: Cost = "spectrum",
    standard_error: Function | None = None,
    tolerates_nonfinite: bool = False,
    standing: bool = True,
) -> Callable[[Function], Function]:
    """Register the decorated function under its own name."""

    def register_function(function: Function) -> Function:
        register(
            MatrixMetric(
                name=function.__name__,
                unit=unit,
                scale=scale,
                formula=formula,
                source=source,
                cost=needs,
                compute=function,
                upper_bound=upper_bound,
                lower_bound=lower_bound,
                sharper_bound=sharper_bound,
                bound_cost=bound_needs,
                standard_error=standard_error,
                tolerates_nonfinite=tolerates_nonfinite,
                standing=standing,
            )
        )
        return function

    return register_function


def matrix_metrics() -> dict[str, MatrixMetric]:
    """The metrics of single matrices, by name."""
    return {name: metric for name, metric in METRICS.items() if isinstance(metric, MatrixMetric)}
