"""A metric's values over the steps of a run, kept column by column: a run has thousands of steps."""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

KEPT = 16
"""Of how many steps with the largest and smallest values names and remarks are kept."""


class StepNote(msgspec.Struct, frozen=True):
    """Which samples did most at a step, in words and as the log names them, and what belongs beside its value."""

    worst: str = ""
    remark: str = ""
    names: tuple[str, ...] = ()


class StepValue(NamedTuple):
    """One step of a series; `value` is None where the step could not be judged."""

    step: int
    value: float | None
    low: float | None
    high: float | None
    standard_error: float | None
    samples: int
    note: StepNote


class StepSeries(msgspec.Struct, frozen=True):
    """Columns of equal length as bytes: 64-bit integers and floats in the machine's order, NaN where there is none.

    `known` has a 1 for each step with a value. `notes` are those of the steps that are furthest out, and of the
    first step without a value, by position.
    """

    steps: bytes
    known: bytes
    values: bytes
    low: bytes
    high: bytes
    standard_errors: bytes
    samples: bytes
    notes: dict[int, StepNote] = {}

    def __iter__(self) -> Iterator[StepValue]:
        """Step by step, in the order of the log."""
        numbers = (_floats(column) for column in (self.values, self.low, self.high, self.standard_errors))
        columns = zip(_integers(self.steps), self.known, *numbers, _integers(self.samples), strict=True)
        for place, (step, known, value, low, high, error, samples) in enumerate(columns):
            yield StepValue(
                step=int(step),
                value=value if known else None,
                low=_or_none(low),
                high=_or_none(high),
                standard_error=_or_none(error),
                samples=int(samples),
                note=self.notes.get(place, StepNote()),
            )


class SeriesBuilder:
    """A series as it grows, 49 bytes a step beside a bounded number of notes."""

    def __init__(self) -> None:
        self._integers = [array("q") for _ in range(2)]
        self._floats = [array("d") for _ in range(4)]
        self._known = bytearray()
        self._notes: dict[int, StepNote] = {}
        self._furthest: list[list[tuple[float, int]]] = [[] for _ in range(4)]
        self._first_unknown: int | None = None

    def add(self, at: StepValue) -> None:
        """Append a step."""
        place = len(self._known)
        self._known.append(at.value is not None)
        for integers, number in zip(self._integers, (at.step, at.samples), strict=True):
            integers.append(number)
        for floats, value in zip(self._floats, (at.value, at.low, at.high, at.standard_error), strict=True):
            floats.append(math.nan if value is None else value)
        if at.note != StepNote():
            self._notes[place] = at.note
        self._rank(place, at)
        if len(self._notes) > 16 * KEPT:
            self._forget()

    def _rank(self, place: int, at: StepValue) -> None:
        if at.value is None:
            self._first_unknown = place if self._first_unknown is None else self._first_unknown
            return
        low = at.value if at.low is None else at.low
        high = at.value if at.high is None else at.high
        # A NaN breaks every limit.
        keys = [math.inf if math.isnan(key) else key for key in (at.value, -at.value, low, -high)]
        for heap, key in zip(self._furthest, keys, strict=True):
            heapq.heappush(heap, (key, -place))
            if len(heap) > KEPT:
                heapq.heappop(heap)

    def _forget(self) -> None:
        kept = {-place for heap in self._furthest for _, place in heap} | {self._first_unknown}
        self._notes = {place: note for place, note in self._notes.items() if place in kept}

    def built(self) -> StepSeries:
        """The series so far."""
        self._forget()
        steps, samples = (column.tobytes() for column in self._integers)
        values, low, high, errors = (column.tobytes() for column in self._floats)
        return StepSeries(steps, bytes(self._known), values, low, high, errors, samples, dict(self._notes))


def _integers(content: bytes) -> Sequence[int]:
    column = array("q")
    column.frombytes(content)
    return column


def _floats(content: bytes) -> Sequence[float]:
    column = array("d")
    column.frombytes(content)
    return column


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
