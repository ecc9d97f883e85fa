"""Rows of one step as NumPy arrays: the tokens that count, row by row, without a copy where none is needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ckptaudit.errors import RolloutError

Array = np.ndarray[Any, Any]
_PAIRED = ("token_ids", "loss_mask", "logp_rollout", "logp_train", "logp_ref", "logp_new", "advantages", "entropy")


MAX_STEPS = 200_000
"""A step costs some kilobytes of memory, however few rows it has."""


def by_step(batches: Iterable[pa.RecordBatch], split: str = "train") -> Iterator[tuple[int, StepRows]]:
    """The rows of a split, cut where the step changes.

    Raises RolloutError if a step comes back, or where there are more than MAX_STEPS.
    """
    seen: set[int] = set()
    current: int | None = None
    for batch in batches:
        wanted = pc.equal(batch.column("split"), split)
        if wanted.false_count:
            batch = batch.filter(wanted)
        steps = batch.column("step").to_numpy()
        edges = np.flatnonzero(np.diff(steps)) + 1
        for start, end in zip([0, *edges], [*edges, len(steps)], strict=True):
            if start == end:
                continue
            step = int(steps[start])
            if step != current and step in seen:
                raise RolloutError(f"The rows of step {step} are not together; sort the table by step.")
            current = step
            seen.add(step)
            if len(seen) > MAX_STEPS:
                raise RolloutError(f"More than {MAX_STEPS:,} steps in one log; pass the log of one run.")
            yield step, StepRows(batch.slice(start, end - start))


@dataclass(frozen=True)
class StepRows:
    """Some rows of one step."""

    rows: pa.RecordBatch
    _tokens: dict[tuple[str, ...], Tokens | None] = field(default_factory=dict, repr=False)

    @property
    def count(self) -> int:
        """Number of samples."""
        return int(self.rows.num_rows)

    def has(self, *columns: str) -> bool:
        """Whether all of the columns are there, and not null in every row."""
        names = self.rows.schema.names
        return all(column in names and self.rows.column(column).null_count < self.count for column in columns)

    def numbers(self, column: str) -> Array:
        """A numeric column as float64, NaN where it is null or missing."""
        if not self.has(column):
            return np.full(self.count, np.nan)
        values: Array = self.rows.column(column).cast(pa.float64()).to_numpy(zero_copy_only=False)
        return values

    def not_finite(self, column: str) -> tuple[int, Array]:
        """How many rows state a number, and which of them one that is NaN or infinite."""
        if not self.has(column):
            return 0, np.zeros(self.count, dtype=bool)
        stated = self.rows.column(column).is_valid().to_numpy(zero_copy_only=False)
        return int(stated.sum()), stated & ~np.isfinite(self.numbers(column))

    def not_finite_in(self, column: str) -> Array:
        """Which rows have a NaN or an infinity in a list, at a token under the loss mask."""
        sizes = np.maximum(self.lengths(column), 0).astype(np.int64)
        flat = self.rows.column(column).flatten()
        values = _in_float64(flat)
        with np.errstate(invalid="ignore"):
            if np.isfinite(values.sum()):  # NaN and infinity carry over into a sum, which is the quicker look
                return np.zeros(self.count, dtype=bool)
        wrong = ~np.isfinite(values) & np.asarray(flat.is_valid())
        inside = self.counted(sizes)
        wrong = wrong if inside is None else wrong & inside
        found: Array = np.bincount(np.repeat(np.arange(self.count), sizes)[wrong], minlength=self.count) > 0
        return found

    def counted(self, sizes: Array) -> Array | None:
        """Which entries of lists of these sizes the loss mask lets count; None for all.

        All of a sample count whose mask is missing or of another length.
        """
        if not self.has("loss_mask"):
            return None
        fits = self.lengths("loss_mask") == sizes
        if fits.all():
            return under_mask(self.rows, sizes)
        kept = np.ones(int(sizes.sum()), dtype=bool)
        flat = pc.fill_null(self.rows.column("loss_mask").filter(pa.array(fits)).flatten(), False)
        kept[np.repeat(fits, sizes)] = flat.to_numpy(zero_copy_only=False)
        return kept

    def lengths(self, column: str) -> Array:
        """Entries of a list in each row, -1 where the list is null."""
        return np.asarray(pc.fill_null(pc.list_value_length(self.rows.column(column)), -1))

    @cached_property
    def names(self) -> Array:
        """The samples' names."""
        return np.asarray(self.rows.column("sample_id").to_pylist(), dtype=object)

    @cached_property
    def response_lengths(self) -> Array:
        """Tokens of each response as float64; NaN where unknown."""
        known = self.numbers("response_len")
        for column in ("token_ids", "logp_rollout"):
            if np.isnan(known).any() and self.has(column):
                found = self.lengths(column).astype(float)
                known = np.where(np.isnan(known) & (found >= 0), found, known)
        return known

    @cached_property
    def aligned(self) -> Array:
        """Whether a sample's lists all have the same length, lists that are null left aside."""
        sizes = [self.lengths(column) for column in _PAIRED if self.has(column)]
        if not sizes:
            return np.ones(self.count, dtype=bool)
        table = np.stack(sizes)
        longest = table.max(axis=0)
        return np.asarray(((table == longest) | (table < 0)).all(axis=0))

    def tokens(self, *columns: str) -> Tokens | None:
        """The tokens under the loss mask of aligned samples that have all of the columns; None without them."""
        if columns not in self._tokens:
            self._tokens[columns] = self._made(columns) if self.has(*columns) else None
        return self._tokens[columns]

    def prepare(self) -> None:
        """Make what several families share, before they work side by side."""
        tokens = self.tokens("logp_rollout", "logp_train")
        if tokens is not None:
            _ = tokens.excess, tokens.differ
        _ = self.names, self.response_lengths

    def _made(self, columns: tuple[str, ...]) -> Tokens:
        there = self.aligned.copy()
        for column in columns:
            there &= self.lengths(column) >= 0
        rows = self.rows if there.all() else self.rows.filter(pa.array(there))
        return Tokens(rows, np.flatnonzero(there), columns)


class Tokens:
    """Tokens of some rows as flat arrays: `values[column]` in float64, `starts` and `counts` by sequence.

    Only tokens under the loss mask whose entries are all there and finite. `row[i]` is the place of sequence i
    among the rows it was made of; sequences without a token are left out.
    """

    def __init__(self, rows: pa.RecordBatch, row: Array, columns: tuple[str, ...]) -> None:
        flat = [rows.column(column).flatten() for column in columns]
        sizes = np.asarray(pc.list_value_length(rows.column(columns[0]))).astype(np.int64)
        keep = under_mask(rows, sizes)
        arrays = [_in_float64(array) for array in flat]
        keep = _and_finite(keep, arrays)
        if keep is not None:
            bounds = np.concatenate(([0], np.cumsum(keep)))
            ends = np.cumsum(sizes)
            sizes = bounds[ends] - bounds[ends - sizes]
            arrays = [array[keep] for array in arrays]
        filled = sizes > 0
        self.row = row[filled]
        self.counts = sizes[filled]
        self.starts = np.cumsum(self.counts) - self.counts
        self.values = dict(zip(columns, arrays, strict=True))
        self.count = int(self.counts.sum())

    @cached_property
    def position(self) -> Array:
        """The place of each token in its sequence, from 0."""
        return np.arange(self.count) - np.repeat(self.starts, self.counts)

    def by_sequence(self, values: Array) -> Array:
        """Sums over each sequence."""
        return np.add.reduceat(values, self.starts) if self.count else np.zeros(0)

    def hits(self, which: Array) -> Array:
        """How many tokens of each sequence a mask picks, as float64."""
        # Most masks here pick nothing, which is seen sooner than summed.
        return self.by_sequence(which.astype(np.float64)) if which.any() else np.zeros(len(self.counts))

    def least(self, values: Array) -> Array:
        """The smallest value of each sequence."""
        return np.minimum.reduceat(values, self.starts) if self.count else np.zeros(0)

    @cached_property
    def log_ratio(self) -> Array:
        """Log pi_old - log mu of each token, in nats."""
        return self.values["logp_train"] - self.values["logp_rollout"]

    @cached_property
    def probabilities(self) -> tuple[Array, Array]:
        """pi_old and mu of each token."""
        return np.exp(self.values["logp_train"]), np.exp(self.values["logp_rollout"])

    @cached_property
    def ratio(self) -> Array:
        """pi_old / mu of each token."""
        with np.errstate(over="ignore"):
            return np.exp(self.log_ratio)

    @cached_property
    def excess(self) -> Array:
        """pi_old / mu - 1 of each token."""
        return self.ratio - 1.0

    @cached_property
    def differ(self) -> bool:
        """Whether the two sides differ at any token."""
        return bool(self.log_ratio.any())


def _and_finite(keep: Array | None, arrays: list[Array]) -> Array | None:
    """Which tokens to keep, None for all: those that were kept before and whose values are all finite."""
    # NaN and infinity carry over into a sum, which is the quicker look.
    with np.errstate(invalid="ignore"):
        if all(np.isfinite(array.sum()) for array in arrays):
            return keep
    finite = np.asarray(np.logical_and.reduce([np.isfinite(array) for array in arrays]))
    return finite if keep is None else np.logical_and(keep, finite)


def _in_float64(values: pa.Array) -> Array:
    numbers = values.to_numpy(zero_copy_only=False)  # a null becomes NaN
    return np.asarray(numbers, dtype=np.float64)


def under_mask(rows: pa.RecordBatch, sizes: Array) -> Array | None:
    """Which tokens count for the loss; None if all do. A sample without a mask counts in full."""
    if "loss_mask" not in rows.schema.names or rows.column("loss_mask").null_count == rows.num_rows:
        return None
    masks = rows.column("loss_mask")
    flat = masks.flatten()
    if not masks.null_count and not flat.null_count and flat.true_count == len(flat):
        return None
    inside = pc.fill_null(flat, False).to_numpy(zero_copy_only=False)
    if not masks.null_count:
        return np.asarray(inside, dtype=bool)
    kept = np.ones(int(sizes.sum()), dtype=bool)
    kept[np.repeat(np.asarray(masks.is_valid().to_numpy(zero_copy_only=False)), sizes)] = inside
    return kept
