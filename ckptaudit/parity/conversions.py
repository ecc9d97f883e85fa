"""Whether a conversion changed nothing: each tensor against the cast that the two formats imply."""

from __future__ import annotations

from collections.abc import Iterator

from ckptaudit.findings import Finding
from ckptaudit.pairing import AlignedTensor, ModelPair
from ckptaudit.parity.conversion_causes import elsewhere, own_cause, transposed_shapes
from ckptaudit.parity.converted import Converted


def conversion_faults(pair: ModelPair) -> Iterator[Finding]:
    """Every weight that a conversion changed, with the cause where its numbers show one."""
    unknown: list[AlignedTensor] = []
    for tensor in pair.aligned:
        weight = Converted(tensor)
        if weight.is_equal:
            continue
        found = own_cause(weight)
        if found is None:
            unknown.append(tensor)
        else:
            yield found
    yield from elsewhere(pair, unknown)
    yield from transposed_shapes(pair)


def quantised(pair: ModelPair) -> Iterator[Finding]:
    """Every weight that a conversion put into float8, with what that cost."""
    for weight in map(Converted, pair.aligned):
        if weight.is_quantised:
            before, after = weight.original.double(), weight.stored.double()
            lost = float((after - before).norm() / before.norm().clamp_min(1e-300))
            detail = f"{weight.tensor.base.dtype} to {weight.tensor.tuned.quantised}, relative change {lost:.3g}"
            yield Finding(weight.name, "quantised to float8", detail)
