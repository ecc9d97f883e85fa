"""Sums that grow batch by batch: clustered means, and the samples or groups that are furthest out."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass
class ClusteredMean:
    """The mean over tokens with a standard error by sequence, as a sequence's tokens depend on one another.

    With S_i the sum and n_i the number of tokens of sequence i of G, N tokens in all and mean m = sum S_i / N:
    SE^2 = G / (G - 1) * sum (S_i - m n_i)^2 / N^2 (ratio estimator, Cochran 1977, section 6.3).
    """

    clusters: int = 0
    count: float = 0.0
    total: float = 0.0
    squares: float = 0.0
    products: float = 0.0
    counts_squared: float = 0.0

    def add(self, sums: Array, counts: Array) -> None:
        """One entry for each sequence: the sum over its tokens, and how many there are."""
        sizes = counts.astype(np.float64)
        self.clusters += len(sums)
        self.count += float(sizes.sum())
        self.total += float(sums.sum())
        self.squares += float(sums @ sums)
        self.products += float(sums @ sizes)
        self.counts_squared += float(sizes @ sizes)

    @property
    def mean(self) -> float:
        """The mean over tokens; NaN without any."""
        return self.total / self.count if self.count else float("nan")

    @property
    def standard_error(self) -> float:
        """The standard error of the mean; NaN below two sequences."""
        if self.clusters < 2:
            return float("nan")
        mean = self.mean
        residual = self.squares - 2 * mean * self.products + mean * mean * self.counts_squared
        return float(np.sqrt(max(residual, 0.0) * self.clusters / (self.clusters - 1)) / self.count)


@dataclass
class Furthest:
    """The names with the largest values so far."""

    keep: int = 3
    heap: list[tuple[float, str]] = field(default_factory=list)

    def add(self, values: Array, names: Array) -> None:
        """One value for each name; values that are not above 0 are not worth naming."""
        if len(values) > self.keep:
            top = np.argpartition(values, -self.keep)[-self.keep :]
            values, names = values[top], names[top]
        for value, name in zip(values.tolist(), names, strict=True):
            if value > 0:
                heapq.heappush(self.heap, (value, str(name)))
                if len(self.heap) > self.keep:
                    heapq.heappop(self.heap)

    @property
    def names(self) -> tuple[str, ...]:
        """The names, worst first."""
        return tuple(name for _, name in sorted(self.heap, reverse=True))


def enough(mean: ClusteredMean, tokens: int, sequences: int) -> str:
    """Empty if there are enough tokens and sequences for an estimate, else the sentence that says what lacks."""
    if mean.count >= tokens and mean.clusters >= sequences:
        return ""
    return (
        f"{mean.count:,.0f} tokens in {mean.clusters:,} sequences; at least {tokens:,} and {sequences} are "
        "needed for an estimate"
    )
