"""The largest of more numbers than memory holds, exactly: radix selection over a stream that can be run again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BITS = 16
"""Bits of a key settled in one pass; a float64 has four times as many."""

Stream = Callable[[], Iterable[tuple[Tensor, Tensor]]]


@dataclass(frozen=True, slots=True)
class Cut:
    """Where the mass of the largest keys reaches what was wanted.

    `above` and `at` are masses of the keys above and at the cut; `count_above` and `count_at` their numbers.
    """

    prefix: int
    shift: int
    above: float
    at: float
    count_above: int
    count_at: int

    def is_above(self, keys: Float[Tensor, "n"]) -> Bool[Tensor, "n"]:
        """Which keys lie above the cut."""
        return (_bits(keys) >> self.shift) > self.prefix

    def is_at(self, keys: Float[Tensor, "n"]) -> Bool[Tensor, "n"]:
        """Which keys lie at it; equal keys are not told apart."""
        return (_bits(keys) >> self.shift) == self.prefix

    def share_of_ties(self, wanted: float) -> float:
        """How much of what lies at the cut is needed to reach the wanted mass: all equal keys in equal parts."""
        return min(1.0, max(0.0, (wanted - self.above) / self.at)) if self.at > 0 else 0.0


def cut_by_mass(stream: Stream, wanted: float) -> Cut:
    """The cut at which the largest keys hold `wanted` mass; each call of `stream` gives all (keys, masses) again.

    Keys are not negative, float64, of any number; memory does not grow with it. At most four passes.
    """
    cut = Cut(prefix=0, shift=64, above=0.0, at=0.0, count_above=0, count_at=0)
    while cut.shift and cut.count_at != 1:
        cut = _narrowed(cut, stream, wanted)
    return cut


def _narrowed(cut: Cut, stream: Stream, wanted: float) -> Cut:
    shift = cut.shift - BITS
    masses, counts = torch.zeros(2**BITS, dtype=torch.float64), torch.zeros(2**BITS, dtype=torch.int64)
    for keys, mass in stream():
        bits = _bits(keys)
        # A shift by all 64 bits is undefined; the first pass has nothing to compare yet.
        inside = (bits >> cut.shift) == cut.prefix if cut.shift < 64 else torch.ones_like(bits, dtype=torch.bool)
        digits = ((bits[inside] >> shift) & (2**BITS - 1)).cpu()
        masses += torch.bincount(digits, weights=mass[inside].cpu(), minlength=2**BITS)
        counts += torch.bincount(digits, minlength=2**BITS)
    from_top = masses.flip(0).cumsum(0)
    reached = torch.nonzero((from_top >= wanted - cut.above) & (counts.flip(0) > 0))
    # Rounding may leave the sum of all a hair below what was wanted: then the smallest key there is.
    place = int(reached[0]) if len(reached) else int(torch.nonzero(counts.flip(0))[-1])
    digit = 2**BITS - 1 - place
    return Cut(
        prefix=(cut.prefix << BITS) | digit,
        shift=shift,
        above=cut.above + float(from_top[place] - masses[digit]),
        at=float(masses[digit]),
        count_above=cut.count_above + int(counts[digit + 1 :].sum()),
        count_at=int(counts[digit]),
    )


def _bits(keys: Float[Tensor, "n"]) -> Int[Tensor, "n"]:
    # Bit patterns of floats that are not negative are ordered as the floats are; -0.0 becomes 0.0.
    return (keys + 0.0).view(torch.int64)
