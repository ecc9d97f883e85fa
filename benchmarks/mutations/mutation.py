"""One kind of damage: where it can be done, how strongly, and what it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.mutations.release import Pair, Release

Strength = float | str
Change = Callable[[Tensor, Tensor, float], Tensor]
"""(base, tuned, strength) to the damaged tensor, all in float32."""


@dataclass(frozen=True)
class Mutation:
    """A damage at a place: `strengths` ascend, `apply` changes a copy of the healthy release."""

    kind: str
    place: str
    strengths: tuple[Strength, ...]
    apply: Callable[[Release, Release, Strength], None]
    unit: str = ""
    pair: str = "rlvr-gentle"

    @property
    def name(self) -> str:
        """What the table calls it."""
        return f"{self.kind}: {self.place}"

    def of(self, pair: Pair, strength: Strength) -> Release:
        """The damaged release."""
        damaged = pair.tuned.copy()
        self.apply(damaged, pair.base, strength)
        assert damaged.differs(pair.tuned), f"{self.name}: nothing changes at {strength}"
        return damaged


@dataclass(frozen=True)
class Place:
    """Tensors by the ends of their names."""

    name: str
    endings: tuple[str, ...]
    pair: str = "rlvr-gentle"

    def of(self, release: Release) -> list[str]:
        """Their names in a release."""
        return [name for name in release.state if name.endswith(self.endings)]


def on_tensors(
    kind: str, places: Sequence[Place], strengths: tuple[Strength, ...], change: Change, unit: str = ""
) -> list[Mutation]:
    """A change of tensors at each of several places, written back in the type that they have."""

    def at(place: Place) -> Mutation:
        def apply(damaged: Release, base: Release, strength: Strength) -> None:
            names = place.of(damaged)
            assert names, f"{place.name}: the release has no such tensor"
            for name in names:
                before, after = base.state[name].float(), damaged.state[name].float()
                changed = change(before, after.clone(), float(strength or 0))
                damaged.state[name] = changed.to(damaged.state[name].dtype)

        return Mutation(kind, place.name, strengths, apply, unit, place.pair)

    return [at(place) for place in places]


def on_release(
    kind: str,
    place: str,
    apply: Callable[[Release, Release, Strength], None],
    strengths: tuple[Strength, ...] = ("",),
    *,
    unit: str = "",
    pair: str = "rlvr-gentle",
) -> Mutation:
    """A change of tensors together or of documents."""
    return Mutation(kind, place, strengths, apply, unit, pair)


def chosen_rows(weight: Tensor, share: float) -> Tensor:
    """Numbers of a share of the rows, at least one, from the middle on: the first may be padding."""
    count = max(1, round(share * len(weight)))
    return (torch.arange(count) * len(weight) // count + len(weight) // 2) % len(weight)
