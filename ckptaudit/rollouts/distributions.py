"""Distributions over a run that its page draws: log-ratios, their tail and mean by position; reward by length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from ckptaudit.rollouts.quantities.mismatch import PAIR

if TYPE_CHECKING:
    from ckptaudit.rollouts.batches import StepRows, Tokens
    from ckptaudit.rollouts.measure import Rollouts

Array = np.ndarray[Any, Any]

COLUMNS = (*PAIR, "loss_mask", "reward", "response_len", "token_ids")

SIZES = np.concatenate(([0.0], np.logspace(-5, 1.5, 53)))
"""Edges of abs(l) in nats: eight bins to a power of ten, and all below 1e-5 in one."""

DOUBLINGS = 24
"""Bins of positions and lengths: 0, 1, 2 to 3, 4 to 7, and so on."""


class Bin(msgspec.Struct, frozen=True):
    """The mean over what lies in a bin that starts at `start`, its standard error, and how many there were."""

    start: int
    mean: float
    standard_error: float
    count: int


class Distributions(msgspec.Struct, frozen=True, kw_only=True):
    """Over all steps of a run; empty where the log lacks what they are of.

    `below` and `above` count tokens with l = log pi_old - log mu below and above 0 by abs(l), between the edges in
    `sizes` (nats), the last bin open; `equal` counts those with l = 0. `by_position` are means of l by position in
    the response, `reward_by_length` means of the reward by response length in tokens.
    """

    sizes: tuple[float, ...] = ()
    below: tuple[int, ...] = ()
    above: tuple[int, ...] = ()
    equal: int = 0
    by_position: tuple[Bin, ...] = ()
    reward_by_length: tuple[Bin, ...] = ()


class _Means:
    """Sums by bin of doubling size; the standard errors take the values as independent."""

    def __init__(self) -> None:
        self._sums = np.zeros((3, DOUBLINGS))

    def add(self, places: Array, values: Array) -> None:
        bins = np.minimum(np.frexp(places.astype(np.float64))[1], DOUBLINGS - 1)
        for row, weights in enumerate((np.ones(len(values)), values, values * values)):
            self._sums[row] += np.bincount(bins, weights, minlength=DOUBLINGS)

    def bins(self) -> Iterator[Bin]:
        for place, (count, total, squares) in enumerate(self._sums.T.tolist()):
            if count:
                mean = total / count
                spread = max(squares - count * mean * mean, 0.0) / max(count - 1, 1)
                yield Bin(2 ** (place - 1) if place else 0, mean, (spread / count) ** 0.5, int(count))


class _Sums:
    def __init__(self) -> None:
        self._below, self._above = (np.zeros(len(SIZES), dtype=np.int64) for _ in range(2))
        self._equal = 0
        self._by_position, self._by_length = _Means(), _Means()

    def add(self, rows: StepRows) -> None:
        """Add some rows."""
        tokens = rows.tokens(*PAIR) if rows.has(*PAIR) else None
        if tokens is not None and tokens.count:
            self._add_tokens(tokens)
        rewards, lengths = rows.numbers("reward"), rows.response_lengths
        known = np.isfinite(rewards) & np.isfinite(lengths) & (lengths >= 0)
        self._by_length.add(lengths[known], rewards[known])

    def _add_tokens(self, tokens: Tokens) -> None:
        ratios = tokens.log_ratio
        bins = np.searchsorted(SIZES, np.abs(ratios), side="right") - 1
        for counts, side in ((self._below, ratios < 0), (self._above, ratios > 0)):
            counts += np.bincount(bins[side], minlength=len(SIZES))
        self._equal += int((ratios == 0).sum())
        self._by_position.add(tokens.position, ratios)

    def made(self) -> Distributions:
        """All that was added."""
        tokens = bool(self._equal or self._below.any() or self._above.any())
        return Distributions(
            sizes=tuple(SIZES.tolist()) if tokens else (),
            below=tuple(self._below.tolist()) if tokens else (),
            above=tuple(self._above.tolist()) if tokens else (),
            equal=self._equal,
            by_position=tuple(self._by_position.bins()),
            reward_by_length=tuple(self._by_length.bins()),
        )


def distributions(table: Rollouts) -> Distributions:
    """One pass over the log, in bounded memory. Raises RolloutError where it cannot be read."""
    from ckptaudit.rollouts.batches import by_step
    from ckptaudit.rollouts.kept_memory import keep_freed_memory
    from ckptaudit.rollouts.prefetch import read_ahead

    keep_freed_memory()
    sums = _Sums()
    for _, rows in by_step(read_ahead(table.open(column for column in COLUMNS if column in table.columns))):
        sums.add(rows)
    return sums.made()
