"""How much of a release was judged: tensors and parameters that at least one check looked at, by role."""

from __future__ import annotations

import msgspec

UNLIMITED = "no check that was judged limits the role"
"""How the reason begins where no check looked at a tensor."""


class RoleCoverage(msgspec.Struct, frozen=True):
    """The tensors of one role, how many of them a check judged, and which checks."""

    role: str
    tensors: int
    judged: int
    parameters: int
    judged_parameters: int
    checks: tuple[str, ...]


class LeftOut(msgspec.Struct, frozen=True):
    """A tensor that no check judged, and why."""

    tensor: str
    reason: str
    parameters: int


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """What was judged of the weights of one run, beyond their being finite; `left_out` is cut at 200."""

    tuned: str
    tensors: int
    judged: int
    parameters: int
    judged_parameters: int
    roles: tuple[RoleCoverage, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def share(self) -> float:
        """Share of the parameters that were judged; 1 where there is none."""
        return self.judged_parameters / self.parameters if self.parameters else 1.0
