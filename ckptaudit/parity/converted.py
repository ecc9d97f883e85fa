"""One weight before and after a conversion, and whether one cast explains the difference."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ckptaudit.pairing import AlignedTensor
from ckptaudit.parity.bits import same_bits

MANTISSA = {"float8_e4m3fn": 3, "float8_e4m3fnuz": 3, "float8_e5m2": 2, "float8_e5m2fnuz": 2}
"""Bits behind the leading one of each float8 type."""

SMALLEST = 2.0**-17
"""Half of float8_e4m3's smallest step (2^-10) over its largest number (about 2^8), with room for a scale that is a
power of two: what rounding may cost the smallest numbers of a tensor, relative to its largest."""


@dataclass(frozen=True)
class Converted:
    """One weight on both sides, read when it is asked for. Reading raises CheckpointError if a file is damaged."""

    tensor: AlignedTensor

    @property
    def name(self) -> str:
        """The weight's name on the original's side."""
        return self.tensor.name

    @cached_property
    def original(self) -> Tensor:
        """The weight before the conversion, in its own type."""
        return self.tensor.base.read()

    @cached_property
    def stored(self) -> Tensor:
        """The weight after it, in the type of the converted file."""
        return self.tensor.tuned.read()

    @cached_property
    def expected(self) -> Tensor:
        """The original, cast once to the converted file's type: exact to a wider one, to nearest even otherwise."""
        return self.original.to(self.stored.dtype)

    @property
    def is_equal(self) -> bool:
        """Whether the converted weight is the expected one, bit for bit; float8 by its own steps."""
        if same_bits(self.expected, self.stored):
            return True
        if self.tensor.base.quantised and same_bits(self.original, self.stored.to(self.original.dtype)):
            return True  # dequantised without the last rounding to the model's type
        return self.is_quantised and self._within_float8

    @property
    def is_quantised(self) -> bool:
        """Whether the conversion put the weight into float8."""
        return self.tensor.tuned.quantised in MANTISSA and not self.tensor.base.quantised

    @property
    def _within_float8(self) -> bool:
        """Whether each number lies within half a step of float8 of the original, whatever scales were chosen."""
        before, after = self.original.double(), self.stored.double()
        half = 2.0 ** -(MANTISSA[self.tensor.tuned.quantised] + 1) + torch.finfo(self.stored.dtype).eps
        return bool(((after - before).abs() <= half * before.abs() + SMALLEST * before.abs().max()).all())
