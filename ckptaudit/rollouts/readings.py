"""What is measured of a run: the record of a quantity, and the record of one value of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

Scale = Literal["size", "share", "count", "difference", "angle", "factor"]
Per = Literal["step", "run"]

MARKOV = 0.02275
"""The chance that a normal estimate lies two standard errors or more above the truth."""

MIN_TOKENS = 2_000
MIN_SEQUENCES = 30
"""Below these, an estimate over tokens is not judged; the limits are ours."""


NONE_HERE = "this run has no "
"""How a remark begins where a run has nothing that a quantity could be of: no fault, and nothing to be judged."""

NO_GROUPS = f"{NONE_HERE}group of several samples"


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """A quantity: its unit and formula, where it comes from, and which columns of the table it needs.

    `rests_on` names metrics of steps that a metric of the run is made of; `deviations` says how many standard
    errors lie between the value and either end of its interval. `declared` names the facts of the run without which
    it has no value.
    """

    name: str
    unit: str
    formula: str
    source: str
    scale: Scale
    per: tuple[Per, ...]
    needs: tuple[str, ...] = ()
    rests_on: tuple[str, ...] = ()
    one_suffices: bool = False
    """Whether one of the columns that it needs is enough."""
    deviations: float = 2.0
    declared: tuple[str, ...] = ()
    of_what: str = ""
    """What a run without any reading has none of, in words."""
    pooled: bool = False
    """Whether the run's value is made of the parts of all steps, pooled."""
    in_detail: bool = False
    """Whether readings of the run need those of the steps with their parts and names."""
    smallest: float = -math.inf
    """The least value that a term of the mean can have, where there is one."""


class Part(msgspec.Struct, frozen=True):
    """A signed mean that a reading was made from, as of one bin of positions."""

    value: float
    standard_error: float
    samples: int


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One value of a metric, at a step or over the run; a value of None could not be judged, and `remark` says why.

    `samples` counts what it was taken over (tokens, sequences or groups), `worst` names the samples or groups
    that did most; `parts` holds the signed means behind it where there are several or the sign matters.
    """

    metric: str
    subject: str
    value: float | None
    low: float | None = None
    high: float | None = None
    standard_error: float | None = None
    samples: int = 0
    worst: tuple[str, ...] = ()
    remark: str = ""
    parts: tuple[Part, ...] = ()


def exact(
    metric: Metric, subject: str, value: float, samples: int, worst: Sequence[str] = (), remark: str = ""
) -> Reading:
    """A reading without sampling error."""
    return Reading(
        metric=metric.name,
        subject=subject,
        value=float(value),
        low=float(value),
        high=float(value),
        samples=samples,
        worst=tuple(worst),
        remark=remark,
    )


def estimate(
    metric: Metric,
    subject: str,
    value: float,
    standard_error: float,
    samples: int,
    worst: Sequence[str] = (),
    remark: str = "",
    parts: Sequence[Part] = (),
    at_least: float = -math.inf,
) -> Reading:
    """A reading with its standard error and interval; the interval never reaches below `at_least`."""
    width = metric.deviations * standard_error
    lowest = max(lower_end(metric, value, standard_error), at_least)
    return Reading(
        metric=metric.name,
        subject=subject,
        value=float(value),
        low=float(lowest),
        high=float(value + width),
        standard_error=float(standard_error),
        samples=samples,
        worst=tuple(worst),
        remark=remark,
        parts=tuple(parts),
    )


def lower_end(metric: Metric, value: float, standard_error: float) -> float:
    """The lower end of the interval of a mean.

    Where one term is nearly all of a mean, the standard error is as large as the mean and says nothing. Of terms
    that are never below `smallest`, Markov's inequality says what a normal law says of others: with a chance of
    MARKOV at most does a mean lie so far above the truth `t` that value - smallest >= (t - smallest) / MARKOV,
    whatever their law is and however they depend on one another.
    """
    by_deviation = value - metric.deviations * standard_error
    if metric.smallest == -math.inf:
        return by_deviation
    by_markov = metric.smallest + MARKOV * (value - metric.smallest)
    return by_deviation if by_deviation > by_markov else by_markov  # the latter where the former is NaN


def unjudged(metric: Metric, subject: str, remark: str, samples: int = 0, parts: Sequence[Part] = ()) -> Reading:
    """A reading that says why there is no value."""
    return Reading(
        metric=metric.name, subject=subject, value=None, samples=samples, remark=remark, parts=tuple(parts)
    )


STEP = "step "

DIGITS = 20
"""Of the longest step in 64 bits, with its sign."""


def step_subject(step: int) -> str:
    """The name of a step in readings and reports."""
    return f"{STEP}{step}"


def step_of(subject: str) -> int | None:
    """The number of the step that a subject names; None where it names none."""
    number = subject.removeprefix(STEP)
    is_number = number.removeprefix("-").isdecimal() and len(number) <= DIGITS
    return int(number) if number != subject and is_number else None
