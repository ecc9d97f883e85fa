"""One number about one matrix: what the engine produces and every report shows."""

from __future__ import annotations

from math import prod
from typing import Literal

import msgspec

Kind = Literal["exact", "upper_bound", "lower_bound"]


class Measurement(msgspec.Struct, frozen=True):
    """A metric's value for a matrix of the pair.

    `value` is None where the quantity could not be computed (a NaN among the weights, a
    decomposition that did not converge): such a number is never passed off as one. A measurement of several
    weights together names in `worst` the one that contributes most; `remark` belongs beside the number.
    """

    tensor: str
    layer: int | None
    role: str
    shape: tuple[int, ...]
    metric: str
    value: float | None
    kind: Kind = "exact"
    worst: str = ""
    remark: str = ""

    @property
    def parameters(self) -> int:
        """Number of entries; the weight in a parameter-weighted mean."""
        return prod(self.shape)
