"""How much of each matrix and vector a run changed, and which of those that it left alone should have changed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from statistics import median

from ckptaudit.metrics.evidence import RunEvidence
from ckptaudit.naming import Place, in_groups
from ckptaudit.pairing import AlignedTensor

DIFFERING = "differing_entries"

NEARLY = 1e-3
"""A part that changed in less than this share of what is usual for its role changed nearly not at all."""

UNLIKELY = 1e-6
"""Chance, over all parts of a model together, below which being left alone is no accident."""

CAUTION = 0.1
"""A layer may change this much less often than the least changed of its peers without being called stale."""

FEW_CHANGED, FEW_OF_TOUCHED = 1e-4, 1e-2
"""A change of a smaller share of the model, and of the tensors that it touched, is no run worth a release."""

Kin = tuple[str, str]
"""Stack and role: parts that are comparable with each other."""


@dataclass(frozen=True, slots=True)
class Part:
    """One matrix or vector, and in how many of its entries the two sides differ."""

    name: str
    tensor: AlignedTensor
    entries: int
    differing: float
    expert: int | None = None
    inherited: bool = False
    """Whether the tuned side is an adapter that has nothing for it, so that it is read from the base's file."""

    @property
    def place(self) -> Place:
        """Where it stands."""
        return self.tensor.place

    @property
    def kin(self) -> Kin:
        """What it is comparable with."""
        return self.place.stack, self.place.role

    @property
    def share(self) -> float:
        """Share of the entries that changed."""
        return self.differing / self.entries

    @property
    def changed(self) -> bool:
        """Whether any entry differs."""
        return self.differing > 0


@dataclass(frozen=True)
class Movement:
    """The parts of a run that have a number; those frozen on purpose are apart."""

    parts: tuple[Part, ...]
    frozen: tuple[Part, ...]

    @classmethod
    def of(cls, evidence: RunEvidence) -> Movement:
        """What the evidence says of each matrix; one that could not be read has no part."""
        found = list(_parts(evidence))
        frozen = [any(is_meant(pattern, part) for pattern in evidence.frozen) for part in found]
        return cls(
            tuple(part for part, is_frozen in zip(found, frozen, strict=True) if not is_frozen),
            tuple(part for part, is_frozen in zip(found, frozen, strict=True) if is_frozen),
        )

    @cached_property
    def by_kin(self) -> dict[Kin, list[Part]]:
        """The parts of each role of each stack."""
        found: dict[Kin, list[Part]] = {}
        for part in self.parts:
            found.setdefault(part.kin, []).append(part)
        return found

    @cached_property
    def changed_of(self) -> dict[Kin, int]:
        """How many parts of each role of each stack changed."""
        return {kin: sum(p.changed for p in parts) for kin, parts in self.by_kin.items()}

    @cached_property
    def stale(self) -> frozenset[str]:
        """Names of the parts that were left alone, and by what happened to their peers should not have been.

        With p the least share among the peers that changed as usual, k of n entries or fewer change by chance with
        a probability of at most exp(-n KL(k/n || p)), which is (1 - p)^n for k = 0 (Chernoff). A part is stale if
        that, for a p ten times smaller and times the number of parts, is less than one in a million: a vector that
        a sparse update happens to miss is not.
        """
        return frozenset(p.name for kin in self.by_kin.values() for p in _stale(kin, len(self.parts)))

    @cached_property
    def expected(self) -> tuple[Part, ...]:
        """The parts that changed, and those that are stale: what is left out may have been missed by chance."""
        return tuple(p for p in self.parts if p.name in self.stale or p.changed)

    @property
    def share(self) -> float:
        """Share of all entries that changed."""
        return sum(p.differing for p in self.parts) / max(1, sum(p.entries for p in self.parts))


def is_meant(pattern: str, part: Part) -> bool:
    """Whether a `frozen` pattern names the part: its role or group, its layer or tower, or its tensor's name."""
    place, tensor = part.place, part.tensor
    if any(fnmatchcase(name, pattern) for name in (part.name, tensor.name, place.subject, place.stack or "-")):
        return True
    return in_groups(place.role, (pattern,), is_matrix=tensor.is_matrix, in_experts=place.in_experts)


def chance(changed: float, entries: int, share: float) -> float:
    """Logarithm of a bound on the probability that so few of `entries` change, each with probability `share`.

    -n KL(k/n || p) for k < n p, else 0 (Chernoff).
    """
    rate = changed / entries
    if not rate < share:
        return 0.0
    if share >= 1:
        return -math.inf
    part = rate * math.log(rate / share) if rate else 0.0
    return -entries * (part + (1 - rate) * (math.log1p(-rate) - math.log1p(-share)))


def is_nearly_base(movement: Movement) -> bool:
    """Whether something changed, but in so few entries that no rule about parts means anything."""
    touched = sum(p.entries for p in movement.parts if p.changed)
    count = sum(p.differing for p in movement.parts)
    return 0 < count < min(FEW_OF_TOUCHED * touched, FEW_CHANGED * sum(p.entries for p in movement.parts))


def _stale(kin: Sequence[Part], parts: int) -> Iterator[Part]:
    shares = [p.share for p in kin if p.changed]
    if not shares:
        return
    little = NEARLY * median(shares)
    least = CAUTION * min(share for share in shares if share >= little)
    for part in kin:
        if part.share < little and chance(part.differing, part.entries, least) < math.log(UNLIKELY / parts):
            yield part


def _parts(evidence: RunEvidence) -> Iterator[Part]:
    values = evidence.values[DIFFERING]
    merged_from = evidence.pair.tuned.merged_from
    inherited = {str(handle.file) for handle in merged_from[0].tensors.values()} if merged_from else set()
    for tensor in evidence.pair.aligned:
        count, m, n = tensor.matrix_shape
        names = tensor.matrix_names()
        for number, name in enumerate(names):
            value = values.get(name)
            if value is not None and m * n:
                expert = number if tensor.stacked and count > 1 else tensor.place.expert
                yield Part(name, tensor, m * n, value, expert, str(tensor.tuned.file) in inherited)
