"""Names of two checkpoints brought together: wrappers taken off, shared tensors put back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from ckptaudit.checkpoints import TensorHandle
from ckptaudit.naming import Naming, rules

Tensors = Mapping[str, TensorHandle]


def renamed(base: Iterable[str], tuned: Iterable[str], naming: Naming | None = None) -> dict[str, str]:
    """Tuned names and the base names they stand for: only wrappers such as `module.` differ, or the spelling.

    A name that both sides have is never renamed, and one that could stand for two is left alone.
    """
    theirs, ours = frozenset(base), frozenset(tuned)
    rules_of = naming or Naming({})
    left, right = _by_bare_name(theirs - ours, rules_of), _by_bare_name(ours - theirs, rules_of)
    return {right[bare]: left[bare] for bare in sorted(left.keys() & right.keys())}


def completed(side: Tensors, other: Tensors, naming: Naming) -> dict[str, TensorHandle]:
    """The side's tensors, with those it left out because it shares their storage put back."""
    missing = {name: naming.place(name).role for name in other if name not in side}
    added = dict(side)
    for tie in naming.ties:
        wanted = [name for name, role in missing.items() if role == tie.role]
        source = _source(side, tie.source, naming) if wanted else None
        added |= {name: side[source] for name in wanted if source is not None}
    return added


def _source(side: Tensors, role: str, naming: Naming) -> str | None:
    """The one tensor of this role; `shared` before a copy of it that a stack holds."""
    places = {name: naming.place(name) for name in side}
    found = [name for name, place in places.items() if place.role == role and place.layer is None]
    outside = [name for name in found if not places[name].stack]
    chosen = outside or found
    return chosen[0] if len(chosen) == 1 else None


def _by_bare_name(names: Iterable[str], naming: Naming) -> dict[str, str]:
    bare = {name: _bare(naming.canonical(name)) for name in names}
    counts = Counter(bare.values())
    return {short: name for name, short in bare.items() if counts[short] == 1}


def _bare(name: str) -> str:
    words = [w for w in name.split(".") if w not in rules().inner_wrappers]
    start = next((i for i, w in enumerate(words) if w not in rules().wrappers), 0)
    return ".".join(words[start:])
