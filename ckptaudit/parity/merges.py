"""Base and adapter to what a merged file must hold: peft's own bits, and the numbers before rounding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from ckptaudit.checkpoints import Checkpoint, TensorHandle, merge_adapter
from ckptaudit.checkpoints.adapters.model_names import ModelNames
from ckptaudit.findings import Finding
from ckptaudit.pairing import AlignedTensor, ModelPair, pair_checkpoints
from ckptaudit.pairing.auxiliary import Auxiliary
from ckptaudit.pairing.model_pair import FLOATING

if TYPE_CHECKING:
    from torch import Tensor

    from ckptaudit.checkpoints.tensors import Factors


@dataclass(frozen=True, slots=True)
class MergedTensor:
    """One weight of the merged file: as stored, as peft merges it, before rounding, and of the base.

    `roundings` is how many times a right merge rounds in the stored type; `factors` are those of the whole stored
    tensor, None for what an adapter replaces or only shifts.
    """

    name: str
    role: str
    stored: TensorHandle
    merged: TensorHandle
    exact: TensorHandle
    base: TensorHandle | None
    factors: Factors | None
    roundings: int


@dataclass(frozen=True)
class Merge:
    """The base without the adapter, the adapter, and the file that is said to be the two merged."""

    base: Checkpoint
    adapter: Checkpoint
    stored: Checkpoint
    initial: Checkpoint | None = None

    @cached_property
    def merged(self) -> Checkpoint:
        """What peft makes of base and adapter."""
        return merge_adapter(self.base, self.adapter, self.initial)

    @cached_property
    def touched(self) -> frozenset[str]:
        """The base's names of the tensors that the adapter changes or replaces."""
        own = self.base.tensors
        return frozenset(name for name, handle in self.merged.tensors.items() if own.get(name) is not handle)

    @cached_property
    def pair(self) -> ModelPair:
        """The merge by peft against the file."""
        return pair_checkpoints(self.merged, self.stored)

    def is_touched(self, name: str) -> bool:
        """Whether the adapter changes this weight; a part of a fused tensor is named behind it in brackets."""
        return name in self.touched or name.partition("[")[0] in self.touched

    def untouched(self) -> Iterator[AlignedTensor]:
        """Weights that must be the base's."""
        return (t for t in self.pair.aligned if not self.is_touched(t.name))

    def adapted(self) -> Iterator[MergedTensor]:
        """Weights that the adapter changes."""
        exact = {t.name: t.base for t in pair_checkpoints(self._exact, self.stored).aligned}
        base = {t.name: t.base for t in pair_checkpoints(self.base, self.stored).aligned}
        modules = self._modules
        for t in (t for t in self.pair.aligned if self.is_touched(t.name)):
            factors = modules.get(t.name.partition("[")[0])
            place, also = t.place.role, (exact[t.name], base.get(t.name))
            yield MergedTensor(t.name, place, t.tuned, t.base, *also, factors, self._roundings(factors))

    def missing(self) -> Iterator[Finding]:
        """Weights that the adapter changes and the file does not have in this shape."""
        for fault in self.pair.unaligned:
            if self.is_touched(fault.tensor) and fault.fault != "only in tuned":
                yield Finding(fault.tensor, "not in the merged file", f"{fault.fault}; save the merged model again")

    def others(self, tensor: MergedTensor) -> Iterator[tuple[str, Factors]]:
        """Other modules of the adapter whose update has the shape of this one's."""
        own = tensor.factors
        if own is not None:
            for name, factors in self._modules.items():
                if factors is not own and _sizes(factors) == _sizes(own):
                    yield name, factors

    @cached_property
    def _modules(self) -> Mapping[str, Factors]:
        assert self.adapter.adapter is not None  # the input was opened as one
        factors = self.adapter.adapter.factors
        names = ModelNames(self.touched, self.base.config)
        found = ((names.find(f"{module}.weight"), own) for module, own in factors.items())
        return {name: own for name, own in found if name is not None}

    def _roundings(self, factors: Factors | None) -> int:
        assert self.adapter.adapter is not None
        twice = self.adapter.adapter.pissa or self.adapter.adapter.approximate
        return 2 if factors is not None and (twice or factors.magnitude is not None) else 1

    @property
    def _exact(self) -> Checkpoint:
        tensors = {name: _wide(handle) for name, handle in self.base.tensors.items()}
        return merge_adapter(replace(self.base, tensors=tensors), self.adapter, self.initial)


def merge_of(pair: ModelPair, auxiliary: Auxiliary) -> Merge:
    """The merge that is claimed: of the base and the adapter given, or of a base that is BASE+ADAPTER itself."""
    initial = auxiliary.given.get("adapter_init")
    start = initial.checkpoints[0] if initial is not None else None
    if "adapter" in auxiliary.given:
        return Merge(pair.base, auxiliary["adapter"].checkpoints[0], pair.tuned, start)
    assert pair.base.merged_from is not None  # planning refuses a pair without either
    return Merge(*pair.base.merged_from, pair.tuned, start)


def _sizes(factors: Factors) -> tuple[int, ...]:
    return (factors.up.shape[0], *factors.down.shape[1:])


def _wide(handle: TensorHandle) -> TensorHandle:
    if handle.dtype not in FLOATING:
        return handle

    def load() -> Tensor:
        return handle.read().double()

    return replace(handle, dtype="float64", load=load)
