"""A mutation at each of its strengths, until the gate closes: one audit in this process for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.mutations.losses import losses
from benchmarks.mutations.mutation import Mutation, Strength
from benchmarks.mutations.release import Pair, Release
from ckptaudit.errors import CkptAuditError
from ckptaudit.pipeline.api import audit

REFUSED = "refused"
"""Stands for a check where the release is not even opened."""

HEALTHY = ("rlvr-gentle", "rlvr-gentle-seed1", "rlvr-gentle-seed2", "dpo", "lora-grpo")

Losses = tuple[float, float] | None
Measured = Callable[[Release], Losses]


@dataclass(frozen=True)
class Caught:
    """Which checks closed the gate, in the order of the run, and which only warned."""

    closed_by: tuple[str, ...]
    warned: tuple[str, ...]

    @property
    def closes(self) -> bool:
        """Whether the gate is closed."""
        return bool(self.closed_by)


@dataclass(frozen=True)
class Trial:
    """What came of a mutation.

    `closed_at` is the least strength that closed the gate, None where none did; `open_at` the greatest below it,
    which left it open. `harm` and `harm_open` are the changes of both losses there, against the healthy release.
    """

    mutation: Mutation
    closed_at: Strength | None
    caught: Caught
    open_at: Strength | None
    harm: Losses
    harm_open: Losses


class Workshop:
    """Pairs on disk, and the audits of their damaged releases. What rests on a base is kept between audits."""

    def __init__(self, folder: Path, pairs: Iterable[Pair], measure: Measured = losses) -> None:
        self.pairs: Mapping[str, Pair] = {pair.name: pair for pair in pairs}
        self._folder, self._measure = folder, measure
        self._healthy: dict[str, Losses] = {}
        for pair in self.pairs.values():
            pair.base.write(folder / pair.name / "base")

    def caught(self, pair: Pair, release: Release) -> Caught:
        """What the default gate says of a release."""
        home = self._folder / pair.name
        release.write(home / "tuned")
        try:
            result = audit(
                home / "base", home / "tuned", complete=False, device="cpu", cache=self._folder / "cache"
            )
        except CkptAuditError:
            return Caught((REFUSED,), ())
        broken = [v for v in result.verdicts if v.outcome in ("failed", "error")]
        closing = dict.fromkeys(v.check for v in broken if v.closes)
        return Caught(tuple(closing), tuple(dict.fromkeys(v.check for v in broken if v.check not in closing)))

    def tried(self, mutation: Mutation) -> Trial:
        """The mutation at ascending strengths, up to the first that closes the gate."""
        pair, open_at, caught = self.pairs[mutation.pair], None, Caught((), ())
        for strength in mutation.strengths:
            caught = self.caught(pair, mutation.of(pair, strength))
            if caught.closes:
                return Trial(
                    mutation,
                    strength,
                    caught,
                    open_at,
                    self._harm(mutation, strength),
                    self._harm(mutation, open_at),
                )
            open_at = strength
        return Trial(mutation, None, caught, open_at, None, self._harm(mutation, open_at))

    def _harm(self, mutation: Mutation, strength: Strength | None) -> Losses:
        pair = self.pairs[mutation.pair]
        if strength is None or not pair.trained:
            return None
        if pair.name not in self._healthy:
            self._healthy[pair.name] = self._measure(pair.tuned)
        before, after = self._healthy[pair.name], self._measure(mutation.of(pair, strength))
        if before is None or after is None:
            return None
        return after[0] - before[0], after[1] - before[1]


def first_catches(trials: Iterable[Trial]) -> Counter[str]:
    """How often each check was the first to close the gate."""
    return Counter(trial.caught.closed_by[0] for trial in trials if trial.caught.closes)


def hold_to_one_thread() -> None:
    """Figures do not depend on how many cores there are."""
    torch.set_num_threads(1)
