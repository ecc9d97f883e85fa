"""What a broken tensor looks like: another tensor of the base, its own rows in another order, one flipped bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ckptaudit.errors import CkptAuditError
from ckptaudit.findings import Cause
from ckptaudit.linalg.rearranged import (
    CLOSE,
    blocks_of,
    distance,
    flipped_bit,
    is_shifted,
    moved_rows,
    order_of_rows,
    rotary_order,
    sample,
    scaled_by,
)
from ckptaudit.pairing import AlignedTensor, ModelPair

FAR = 0.3
"""A tensor nearer to its base than this, relative to its norm, is no other one."""

CANDIDATES = 128
"""How many tensors of the base are looked at for one that broke."""

SEARCHED = 16
"""How many broken tensors of a run are looked at."""

LARGEST = 2**29
"""Entries of the largest tensor that is looked at: both sides of it are read again, 2 GiB in bf16."""

MOST_READ = 2**33
"""Entries of candidates that are read for one run."""

PARTNERS = {"gate_proj": "up_proj", "k_proj": "v_proj", "q_proj": "k_proj", "lm_head": "embed_tokens"}

COPY = "Look at the step that renamed, merged or converted the tensors, and export the checkpoint again."


@dataclass
class CauseSearch:
    """Looks for the causes of one pair's broken tensors; what was found is kept, and only so many are looked at."""

    pair: ModelPair
    found: dict[str, Cause | None] = field(default_factory=dict)
    samples: dict[str, Tensor] = field(default_factory=dict)
    entries_read: int = 0

    def of(self, name: str) -> Cause | None:
        """What the tensor or matrix of that name looks like; None where nothing fits, or it cannot be read."""
        if name not in self.found:
            weight = self._weights.get(name)
            may = weight is not None and len(self.found) < SEARCHED
            try:
                self.found[name] = next(self._causes(*weight), None) if may and weight else None
            except CkptAuditError:
                self.found[name] = None
        return self.found[name]

    def _causes(self, tensor: AlignedTensor, number: int | None) -> Iterator[Cause]:
        before, after = _read(tensor, number, base=True), _read(tensor, number, base=False)
        if before.numel() > LARGEST:
            return
        yield from _of_the_update(tensor, before, after)
        yield from _of_one_bit(before, after)
        if (
            distance(after, before) < FAR
            and distance(after[:1], before[:1]) < FAR
            and not bool(moved_rows(after, before).any())
        ):
            return
        yield from self._another_tensor(tensor, number, after)
        yield from _rearranged(tensor, before, after, self._head)
        yield from _scaled(before, after)

    def _another_tensor(self, tensor: AlignedTensor, number: int | None, after: Tensor) -> Iterator[Cause]:
        sketch = sample(after)
        for other, index in self._candidates(tensor, number):
            known = self._sample(other, index)
            if known is not None and distance(sketch, known) <= CLOSE:
                before = _read(other, index, base=True)
                if distance(after, before) <= CLOSE:
                    yield self._named(tensor, number, other, index)

    def _candidates(self, tensor: AlignedTensor, number: int | None) -> list[tuple[AlignedTensor, int | None]]:
        """Tensors of one shape: of the same layer, of the same role in near layers, then the rest of the role."""
        place, own = tensor.place, tensor.matrix_shape[1:]

        def far(weight: tuple[AlignedTensor, int | None]) -> tuple[bool, int, bool]:
            there = weight[0].place
            return (
                there.layer != place.layer,
                abs((there.layer or 0) - (place.layer or 0)),
                there.role != place.role,
            )

        same = [
            (t, i)
            for t, i in self._weights.values()
            if t.matrix_shape[1:] == own
            and (t.name, i) != (tensor.name, number)
            and (t.place.role == place.role or t.place.layer == place.layer)
        ]
        return sorted(same, key=far)[:CANDIDATES]

    def _named(self, tensor: AlignedTensor, number: int | None, other: AlignedTensor, index: int | None) -> Cause:
        here, there = tensor.place, other.place
        mutual = distance(_read(other, index, base=False), _read(tensor, number, base=True)) <= CLOSE
        experts = (number if number is not None else here.expert, index if index is not None else there.expert)
        if here.layer == there.layer and here.role == there.role and None not in experts:
            return Cause(f"experts of layer {here.layer} in another order ({experts[0]} holds {experts[1]})", COPY)
        if here.role == there.role and here.layer is not None:
            what = "layers" if self._layer_follows(tensor, other) else f"{here.role} of layers"
            first, second = sorted((here.layer, there.layer or 0))
            said = f"{what} {first} and {second} exchanged" if mutual else _copied(what, here.layer, there.layer)
            return Cause(said, COPY)
        where = "" if here.layer is None else f" of layer {here.layer}"
        if mutual:
            first_role, second_role = sorted((here.role, there.role))
            return Cause(f"{first_role} and {second_role}{where} exchanged", COPY)
        return Cause(f"{here.role}{where} overwritten by {there.role}", COPY)

    def _layer_follows(self, tensor: AlignedTensor, other: AlignedTensor) -> bool:
        """Whether another role of the one layer is the other layer's as well."""
        layers = (tensor.place.subject, other.place.subject)
        sides = [{t.place.role: t for t in self.pair.subjects.get(s, ()) if t.is_matrix} for s in layers]
        shared = [r for r in sides[0] if r in sides[1] and r != tensor.place.role and not sides[0][r].stacked]
        for role in shared[:1]:
            after, before = sides[0][role].tuned.read(), sides[1][role].base.read()
            return distance(sample(after), sample(before)) <= CLOSE
        return False

    def _sample(self, tensor: AlignedTensor, number: int | None) -> Tensor | None:
        """Entries of a matrix of the base; None once enough has been read. A stack is read once."""
        name = tensor.matrix_names()[number or 0]
        if name not in self.samples:
            if self.entries_read > MOST_READ:
                return None
            self.entries_read += tensor.base.parameters
            whole = tensor.base.read()
            for i, each in enumerate(tensor.matrix_names()):
                self.samples[each] = sample(whole if number is None else whole[i])
        return self.samples[name]

    @cached_property
    def _weights(self) -> dict[str, tuple[AlignedTensor, int | None]]:
        """Every matrix by name; of a stack with its number."""
        found: dict[str, tuple[AlignedTensor, int | None]] = {}
        for tensor in (t for t in self.pair.aligned if t.is_matrix):
            names = tensor.matrix_names()
            found |= {n: (tensor, i if len(names) > 1 else None) for i, n in enumerate(names)}
        return found

    @cached_property
    def _head(self) -> int:
        """Rows of a head, as config.json says; 0 where it does not."""
        config = self.pair.base.config or self.pair.tuned.config
        said, width, heads = (config.get(k) for k in ("head_dim", "hidden_size", "num_attention_heads"))
        if isinstance(said, int):
            return said
        return width // heads if isinstance(width, int) and isinstance(heads, int) and heads > 0 else 0


def _read(tensor: AlignedTensor, number: int | None, *, base: bool) -> Tensor:
    whole = (tensor.base if base else tensor.tuned).read()
    return (whole if number is None else whole[number]).flatten(1) if whole.dim() > 1 else whole[None]


def _copied(what: str, here: int, there: int | None) -> str:
    return f"{what.removesuffix('s').replace('of layer', 'of layer')} {here} overwritten by that of layer {there}"


def _of_the_update(tensor: AlignedTensor, before: Tensor, after: Tensor) -> Iterator[Cause]:
    """The update of an adapter that the base side has: left out, twice, half, with the opposite sign."""
    product = tensor.base.low_rank
    if product is None or product.dense().shape != before.shape:
        return
    share, rest = scaled_by(after.double() - before.double(), product.dense())
    times = {
        1.0: "applied twice",
        -0.5: "applied by half",
        -1.0: "not applied",
        -2.0: "applied with the opposite sign",
    }
    for factor, words in times.items():
        if abs(share - factor) < 0.1 and rest < 0.5:
            yield Cause(
                f"the adapter's update {words}", "Merge the adapter into its base again, once, with its scale."
            )


def _of_one_bit(before: Tensor, after: Tensor) -> Iterator[Cause]:
    at = flipped_bit(after, before)
    if at is not None:
        old, new = float(before[at]), float(after[at])
        said = f"one flipped exponent bit at [{at[0]}, {at[1]}]: {old:.4g} became {new:.4g}"
        yield Cause(
            said, "Copy or save the file again and compare checksums: memory, disk or transfer is at fault."
        )


def _scaled(before: Tensor, after: Tensor) -> Iterator[Cause]:
    if not bool(after.any()):
        yield Cause("a tensor of zeros", "It was allocated and never filled: load and export the checkpoint again.")
        return
    share, rest = scaled_by(after, before)
    if rest < CLOSE and abs(share - 1) > CLOSE:
        yield Cause(
            f"the base's times {share:.4g}", "Look for a scale that was lost or applied twice on conversion."
        )
    elif 0.98 < rest < math.inf:
        yield Cause("unrelated to the base's", "Look for a tensor that was re-initialised, or is of another model.")


def _rearranged(tensor: AlignedTensor, before: Tensor, after: Tensor, head: int) -> Iterator[Cause]:
    role = tensor.place.role
    if before.shape[0] == before.shape[1] and distance(after.T, before) <= CLOSE:
        yield Cause(f"{role} transposed", "Transpose it back; the export took one layout for the other.")
        return
    for by in (1, -1):
        if is_shifted(after, before, by):
            yield Cause(f"rows of {role} shifted by {by}", "Look for a token added or lost in front; " + COPY)
            return
    order = order_of_rows(after, before)
    if order is not None:
        yield Cause(_order_in_words(role, order, head), COPY)
        return
    columns = order_of_rows(after.T, before.T)
    if columns is not None:
        yield Cause(_order_in_words(role, columns, head).replace("rows", "columns"), COPY)


def _order_in_words(role: str, order: Tensor, head: int) -> str:
    moved = torch.nonzero(order != torch.arange(len(order))).flatten().tolist()
    if len(moved) == 2:
        return f"rows {moved[0]} and {moved[1]} of {role} exchanged"
    tests: list[tuple[str, Callable[[int], bool]]] = [
        (
            "permuted for rotary halves where the base interleaves",
            lambda h: torch.equal(order, rotary_order(len(order), h)),
        ),
        (
            "permuted for interleaved rotary pairs where the base has halves",
            lambda h: torch.equal(order, torch.argsort(rotary_order(len(order), h))),
        ),
    ]
    sizes = [h for h in (head, 64, 128, 32, 256, 80, 96, 16) if h >= 4 and h % 2 == 0 and len(order) % h == 0]
    for size in dict.fromkeys(sizes):
        for words, fits in tests:
            if fits(size):
                return f"{role} {words} (heads of {size} rows)"
    if head > 1 and (blocks := blocks_of(order, head)) is not None:
        return f"heads of {role} in another order ({', '.join(map(str, blocks[:8]))})"
    return f"rows of {role} in another order ({len(moved)} of {len(order)})"
