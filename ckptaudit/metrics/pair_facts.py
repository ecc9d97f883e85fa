"""Facts about the pair as a whole, read off the headers: what does not align, what changed its type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ckptaudit.pairing import ModelPair


@dataclass(frozen=True, slots=True)
class PairFact:
    """A count over the pair; `findings` names each counted tensor in words."""

    name: str
    unit: str
    formula: str
    source: str
    findings: Callable[[ModelPair], list[str]]


def unaligned_tensors(pair: ModelPair) -> list[str]:
    """Tensors that have no counterpart on the other side."""
    return [str(u) for u in pair.unaligned if u.fault in ("only in base", "only in tuned")]


def shape_mismatches(pair: ModelPair) -> list[str]:
    """Tensors of one name whose shapes differ."""
    return [str(u) for u in pair.unaligned if u.fault == "shapes differ"]


def dtype_mismatches(pair: ModelPair) -> list[str]:
    """Aligned tensors that are stored in different types."""
    return [f"{t.name}: base {t.base.dtype}, tuned {t.tuned.dtype}" for t in pair.aligned if not t.dtypes_agree]


def _fact(findings: Callable[[ModelPair], list[str]], formula: str) -> PairFact:
    return PairFact(findings.__name__, "tensors", formula, "definition", findings)


PAIR_FACTS: dict[str, PairFact] = {
    fact.name: fact
    for fact in (
        _fact(unaligned_tensors, "#{names that only one side has}"),
        _fact(shape_mismatches, "#{names with different shapes}"),
        _fact(dtype_mismatches, "#{aligned tensors stored in different types}"),
    )
}
