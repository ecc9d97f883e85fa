"""The limit in force for each tensor of a check, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ckptaudit.judging.checks import Check


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit and, in words, who set it: the check's own file, an override, a calibration."""

    value: float
    origin: str = ""


@dataclass(frozen=True)
class Limits:
    """One check's limits on one run: the usual one, and by matrix name those that were moved."""

    usual: Limit
    moved: Mapping[str, Limit] = field(default_factory=dict)

    @classmethod
    def own(cls, check: Check, file: str = "") -> Limits:
        """What the check itself says, in the named file."""
        return cls(Limit(check.limit, f"check in {file}" if file else ""))

    def of(self, matrix: str | None) -> Limit:
        """The limit that a matrix is held to."""
        return self.moved.get(matrix or "", self.usual)

    def strictest(self, check: Check) -> float:
        """A value inside this one is inside all of them; what a bound has to meet to settle the check."""
        least, most = self._range
        return least if check.at_most is not None else most

    @cached_property
    def _range(self) -> tuple[float, float]:
        values = {self.usual.value, *(limit.value for limit in self.moved.values())}
        return min(values), max(values)
