"""Samples of one step by group: what is computed once all rows of the step are there."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ckptaudit.rollouts.batches import StepRows

Array = np.ndarray[Any, Any]


class GroupGatherer:
    """Collects numeric columns and names over a step's batches. Samples without a group are left out."""

    def __init__(self, *columns: str) -> None:
        self._columns = columns
        self._codes: dict[str, int] = {}
        self._parts: list[tuple[Array, ...]] = []

    def add(self, rows: StepRows, **more: Array) -> None:
        """Take the columns, and arrays of the same length under other names, of the rows that have a group."""
        if not rows.has("group_id"):
            return
        names = rows.rows.column("group_id").to_pylist()
        code = self._codes
        group = np.array(
            [-1 if name is None else code.setdefault(name, len(code)) for name in names], dtype=np.int64
        )
        arrays = [rows.names, *(rows.numbers(column) for column in self._columns), *more.values()]
        self._extra = tuple(more)
        keep = group >= 0
        self._parts.append((group[keep], *(array[keep] for array in arrays)))

    def gathered(self) -> GroupTable | None:
        """All of the step's samples that have a group; None if there is none."""
        if not self._parts or not self._codes:
            return None
        group, samples, *arrays = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        values = dict(zip((*self._columns, *self._extra), arrays, strict=True))
        return GroupTable(group, tuple(self._codes), samples, values)


@dataclass(frozen=True)
class GroupTable:
    """Samples with the number of their group; `names` are the groups' names by number."""

    group: Array
    names: tuple[str, ...]
    samples: Array
    values: dict[str, Array]

    def where(self, keep: Array) -> GroupTable:
        """Only some samples; groups keep their numbers."""
        values = {name: array[keep] for name, array in self.values.items()}
        return GroupTable(self.group[keep], self.names, self.samples[keep], values)

    @cached_property
    def sizes(self) -> Array:
        """Samples of each group."""
        return np.bincount(self.group, minlength=len(self.names))

    @cached_property
    def members(self) -> Array:
        """The size of each sample's group."""
        return self.sizes[self.group]

    def sums(self, values: Array) -> Array:
        """Sum of the values of each group."""
        return np.bincount(self.group, values, minlength=len(self.names))

    def means(self, values: Array) -> Array:
        """Mean of the values of each sample's group."""
        return (self.sums(values) / np.maximum(self.sizes, 1))[self.group]

    def extremes(self, values: Array) -> tuple[Array, Array]:
        """Smallest and largest value of each group that has samples; the others hold +inf and -inf."""
        low, high = np.full(len(self.names), np.inf), np.full(len(self.names), -np.inf)
        np.minimum.at(low, self.group, values)
        np.maximum.at(high, self.group, values)
        return low, high

    def medians(self, values: Array) -> Array:
        """Median of the values of each sample's group."""
        order = np.lexsort((values, self.group))
        ordered = values[order]
        starts = np.cumsum(self.sizes) - self.sizes
        filled = np.maximum(self.sizes, 1)
        last = len(values) - 1
        low = ordered[np.minimum(starts + (filled - 1) // 2, last)]
        high = ordered[np.minimum(starts + filled // 2, last)]
        return np.asarray(((low + high) / 2)[self.group])

    def ranks(self, values: Array) -> Array:
        """Rank of each value in its group, ties at their average."""
        order = np.lexsort((values, self.group))
        ordered, groups = values[order], self.group[order]
        new = np.concatenate(([True], (ordered[1:] != ordered[:-1]) | (groups[1:] != groups[:-1])))
        run = np.cumsum(new) - 1
        places = np.bincount(run, np.arange(len(values))) / np.bincount(run)
        ranks = np.empty(len(values))
        ranks[order] = places[run]
        return ranks


def answers_of(rows: StepRows) -> Array | None:
    """A number for each answer, the same for the same tokens, or without these for the same text; else None."""
    column = next((name for name in ("token_ids", "response") if rows.has(name)), None)
    if column is None:
        return None
    values = rows.rows.column(column)
    if column == "response":
        return np.array([hash(value) for value in values.to_pylist()], dtype=np.int64)
    return _digests(values.flatten().to_numpy(zero_copy_only=False), np.maximum(rows.lengths(column), 0))


def _digests(flat: Array, sizes: Array) -> Array:
    data, bounds = np.ascontiguousarray(flat).tobytes(), np.concatenate(([0], np.cumsum(sizes))) * flat.itemsize
    return np.array([hash(data[a:b]) for a, b in itertools.pairwise(bounds)], dtype=np.int64)
