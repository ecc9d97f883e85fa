"""One number about one subject: what measuring produces and every report shows."""

from __future__ import annotations

from math import prod
from typing import Literal

import msgspec

from ckptaudit.behavior.shown import BehaviorExcerpt
from ckptaudit.findings import Finding
from ckptaudit.metrics.step_series import StepSeries

Kind = Literal["exact", "upper_bound", "lower_bound"]

Method = Literal["direct", "gram", "iterative", "sampled"]
"""How a number was computed: from its definition in float64, through Gram matrices of the base and the update, by
Rayleigh-Ritz or Lanczos steps from the base's directions, or from a sample."""


class Reach(msgspec.Struct, frozen=True):
    """Between which values the base leaves a number to lie, whatever the tuned model does; `base` says why."""

    least: float
    most: float
    base: str


class Measurement(msgspec.Struct, frozen=True, omit_defaults=True):
    """A metric's value for a matrix of the pair, or for whatever else its scope is about: of rollouts, a step.

    `value` is None where the quantity could not be computed (a NaN among the weights, a decomposition that did
    not converge, a file that cannot be read), and `remark` then says why: such a number is never passed off as
    one. `error` is the largest absolute error that `method` leaves, None where it is that of float64 rounding. A
    measurement of several weights together names in `worst` the one that contributes most. `tuned` is the run.
    An estimate lies between `low` and `high`; of any other number both are None. A change of a share has a
    `reach`: where the base has none of it, nothing is left to be lost. Where `series` is there, it holds
    the values of every step of rollouts, and the measurement itself has none; `excerpt` holds what a page shows of
    probes.
    """

    tensor: str
    layer: int | None
    role: str
    shape: tuple[int, ...]
    metric: str
    value: float | None
    kind: Kind
    worst: str = ""
    remark: str = ""
    tuned: str = ""
    method: Method = "direct"
    error: float | None = None
    standard_error: float | None = None
    samples: int | None = None
    low: float | None = None
    high: float | None = None
    reach: Reach | None = None
    findings: tuple[Finding, ...] = ()
    series: StepSeries | None = None
    excerpt: BehaviorExcerpt | None = None

    @property
    def parameters(self) -> int:
        """Number of entries; the weight in a parameter-weighted mean."""
        return prod(self.shape)
