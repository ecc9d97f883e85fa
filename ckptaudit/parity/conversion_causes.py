"""Why a converted weight is not the original: what went wrong, where the numbers themselves tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ckptaudit.findings import Finding
from ckptaudit.linalg.rounding import factor_interval, spacing
from ckptaudit.pairing import AlignedTensor, ModelPair
from ckptaudit.parity.bits import bits_of, digest, same_bits
from ckptaudit.parity.converted import Converted
from ckptaudit.parity.orders import order_of_columns, order_of_rows, order_words

THROUGH = (torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)
FEW = 8
"""Up to this many changed entries, each is looked at bit by bit."""

Cause = tuple[str, str]


def own_cause(weight: Converted) -> Finding | None:
    """A cause that the weight's own numbers show; None where other weights have to be looked at."""
    causes = (_zeroed, _cast_twice, _rounding, _flipped_bits, _not_finite, _arithmetic, _transposed, _reordered)
    for cause in causes if weight.stored.is_floating_point() else (_zeroed, _transposed, _reordered):
        if said := cause(weight):
            return Finding(weight.name, *said)
    return None


def elsewhere(pair: ModelPair, unknown: Sequence[AlignedTensor]) -> Iterator[Finding]:
    """For each of these weights the original that it holds in truth, or how far it is from its own."""
    shapes = {tensor.shape for tensor in unknown}
    dtypes = {tensor.tuned.read().dtype for tensor in unknown}
    held: dict[bytes, str] = {}
    for tensor in pair.aligned if unknown else ():
        if tensor.shape in shapes:
            original = tensor.base.read()
            held |= {digest(original.to(dtype)): tensor.name for dtype in dtypes}
    holds = {t.name: held.get(digest(t.tuned.read())) for t in unknown}
    for tensor in unknown:
        yield _of_another(tensor.name, holds) or _by_how_much(Converted(tensor))


def transposed_shapes(pair: ModelPair) -> Iterator[Finding]:
    """Tensors of reversed shapes that are each other's transposes."""
    for fault in pair.unaligned:
        base, tuned = pair.base.tensors.get(fault.tensor), pair.tuned.tensors.get(fault.tensor)
        if fault.fault == "shapes differ" and base and tuned and base.shape == tuned.shape[::-1] != tuned.shape:
            stored = tuned.read()
            if len(base.shape) == 2 and same_bits(base.read().T.contiguous().to(stored.dtype), stored):
                yield Finding(fault.tensor, "transposed", f"{fault.detail}; transpose it back")


def _not_finite(weight: Converted) -> Cause | None:
    bad = int((~weight.stored.isfinite()).sum())
    if bad and bool(weight.original.isfinite().all()):
        return (
            "not finite",
            f"{bad} of {weight.stored.numel()} entries are NaN or infinite; convert to a wider type",
        )
    return None


def _zeroed(weight: Converted) -> Cause | None:
    return None if bool(weight.stored.any()) else ("zero", "every entry is zero; it was not converted")


def _flipped_bits(weight: Converted) -> Cause | None:
    before, after = bits_of(weight.expected), bits_of(weight.stored)
    changed = (before != after).nonzero()[:, 0]
    if len(changed) > FEW:
        return None
    width = 8 * weight.stored.element_size()
    apart = [int(a ^ b) & (2**width - 1) for a, b in zip(before[changed], after[changed], strict=True)]
    if any(bits.bit_count() != 1 for bits in apart):
        return None
    where = f"entry {int(changed[0])}, bit {apart[0].bit_length() - 1}"
    return "bit flipped", f"{len(changed)} entries differ in one bit each ({where}); copy the file again"


def _cast_twice(weight: Converted) -> Cause | None:
    for between in (dtype for dtype in THROUGH if dtype not in (weight.original.dtype, weight.stored.dtype)):
        if same_bits(weight.original.to(between).to(weight.stored.dtype), weight.stored):
            kind = str(between).removeprefix("torch.")
            return "cast twice", f"it went through {kind}; convert from {weight.tensor.base.dtype} at once"
    return None


def _rounding(weight: Converted) -> Cause | None:
    before, after = weight.original.double(), weight.stored.double()
    step = spacing(torch.maximum(before.abs(), after.abs()), weight.stored.dtype)
    if not bool(((after - before).abs() <= step).all()):
        return None
    count = int((weight.expected != weight.stored).sum())
    if weight.stored.dtype != weight.original.dtype and bool((after.abs() <= before.abs()).all()):
        return "rounded toward zero", f"{count} entries were cut off; round to nearest"
    if weight.stored.dtype == weight.original.dtype:
        return "off by one step", f"{count} entries; they were computed again, or moved by a small update"
    return "rounded another way", f"{count} entries are off by one step of {weight.tensor.tuned.dtype}"


def _arithmetic(weight: Converted) -> Cause | None:
    before, after = weight.original.double().flatten(), weight.stored.double().flatten()
    step = spacing(torch.maximum(before.abs(), after.abs()), weight.stored.dtype)
    for shift in (1.0, -1.0):
        if bool(((after - before - shift).abs() <= step / 2 + step.min()).all()):
            words = "stored as 1 + w by one side alone"
            return "shifted by one", f"every entry {'grew' if shift > 0 else 'fell'} by 1: {words}"
    found = factor_interval(after, before, step / 2)
    if found.low > found.high or not bool(before.any()):
        return None
    if -1.0 in found:
        return "sign flipped", "every entry has the opposite sign"
    factor = found.middle if found.high < torch.inf else found.low
    return "scaled", f"every entry is {factor:.6g} times the original; a scale was applied or left out"


def _transposed(weight: Converted) -> Cause | None:
    shape = weight.expected.shape
    if len(shape) != 2 or shape[0] != shape[1] or not same_bits(weight.expected.T.contiguous(), weight.stored):
        return None
    return "transposed", "transpose it back"


def _reordered(weight: Converted) -> Cause | None:
    if weight.expected.dim() < 1 or weight.expected.shape[0] < 2:
        return None
    order = order_of_rows(weight.expected, weight.stored)
    if order is not None:
        noun = "experts" if weight.tensor.stacked else "rows" if weight.expected.dim() > 1 else "entries"
        return f"{noun} permuted", order_words(order, noun)
    order = order_of_columns(weight.expected, weight.stored)
    return ("columns permuted", order_words(order, "columns")) if order is not None else None


def _of_another(name: str, holds: Mapping[str, str | None]) -> Finding | None:
    other = holds[name]
    if other is None:
        return None
    if holds.get(other) == name:
        return Finding(name, "exchanged", f"it holds {other}, and that one holds this; exchange them back")
    return Finding(name, "another tensor", f"it holds {other}; convert it from the tensor of its own name")


def _by_how_much(weight: Converted) -> Finding:
    before, after = weight.expected.double(), weight.stored.double()
    apart: Tensor = (after - before).abs()
    count, size = int((apart > 0).sum()), float(apart.norm() / before.norm().clamp_min(1e-300))
    detail = f"{count} of {apart.numel()} entries, relative {size:.3g}, at most {float(apart.max()):.3g}"
    return Finding(weight.name, "differs", detail)
