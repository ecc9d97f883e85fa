"""What a merged file holds in place of base + adapter: judged entry by entry, to the rounding of a right merge."""

from __future__ import annotations

from collections.abc import Iterator

from ckptaudit.findings import Finding
from ckptaudit.linalg.rounding import narrower
from ckptaudit.parity.bits import same_bits
from ckptaudit.parity.merge_causes import cause_of
from ckptaudit.parity.merged_weights import MergedWeights
from ckptaudit.parity.merges import Merge, MergedTensor


def merge_faults(merge: Merge) -> Iterator[Finding]:
    """Every weight that is not base + adapter; weights without an adapter must be the base's bit for bit."""
    yield from merge.missing()
    foreign = list(_changed_outside(merge))
    yield from foreign
    for tensor in merge.adapted():
        weights = MergedWeights(tensor)
        if not weights.is_right:
            yield cause_of(merge, weights, on_other_base=bool(foreign))


def vanished_updates(merge: Merge) -> Iterator[Finding]:
    """Weights whose adapter is too small for the base's type: the right merge is the base."""
    for tensor in merge.adapted():
        if _is_trained(tensor) and _is_base(tensor):
            detail = (
                f"merged in {tensor.merged.dtype}, every entry rounds back to the base; merge into a wider type"
            )
            yield Finding(tensor.name, "update lost in rounding", detail)


def _is_base(tensor: MergedTensor) -> bool:
    return tensor.base is not None and same_bits(tensor.merged.read(), tensor.base.read())


def _is_trained(tensor: MergedTensor) -> bool:
    factors = tensor.factors
    return factors is not None and bool(factors.up.read().any()) and bool(factors.down.read().any())


def _changed_outside(merge: Merge) -> Iterator[Finding]:
    for tensor in merge.untouched():
        base, stored = tensor.base.read(), tensor.tuned.read()
        if base.is_floating_point() and stored.is_floating_point():
            target = narrower(stored.dtype, base.dtype)
            base, stored = base.to(target), stored.to(target)
        if not same_bits(base.to(stored.dtype), stored):
            count = int((base.flatten() != stored.flatten()).sum())
            detail = (
                f"{count} of {stored.numel()} entries differ from the base; the adapter does not touch it, "
                "so merge on the base named here"
            )
            yield Finding(tensor.name, "changed without an adapter", detail)
