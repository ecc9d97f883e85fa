"""Names of two checkpoints brought together: wrappers taken off, shared tensors put back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from ckptaudit.checkpoints import TensorHandle
from ckptaudit.naming import Naming, Tie, rules
from ckptaudit.pairing.views import one_of

Tensors = Mapping[str, TensorHandle]

MAX_LAYERS = 1000
"""No model has more; a header may claim any number for a tensor of few bytes."""


def layers_apart(tensors: Tensors, naming: Naming) -> Tensors:
    """The tensors, with one for each layer in place of those whose first axis counts layers."""
    found: dict[str, TensorHandle] = {}
    for name, handle in tensors.items():
        stack = naming.layer_stack(name)
        if stack is None or not handle.shape or not handle.parameters or handle.shape[0] > MAX_LAYERS:
            found[name] = handle
            continue
        before, behind = stack
        found |= {f"{before}{i}.{behind}": one_of(handle, i) for i in range(handle.shape[0])}
    return found


def renamed(base: Iterable[str], tuned: Iterable[str], naming: Naming | None = None) -> dict[str, str]:
    """Tuned names and the base names they stand for: only wrappers such as `module.` differ, or the spelling.

    A name that both sides have is never renamed, and one that could stand for two is left alone.
    """
    theirs, ours = frozenset(base), frozenset(tuned)
    rules_of = naming or Naming({})
    left, right = _by_bare_name(theirs - ours, rules_of), _by_bare_name(ours - theirs, rules_of)
    return {right[bare]: left[bare] for bare in sorted(left.keys() & right.keys())}


def container(name: str, naming: Naming) -> str:
    """What stands before the layer's number, without wrappers: a tower's blocks are no decoder's layers."""
    return re.split(r"\.[0-9]+(?:\.|$)", _bare(naming.canonical(name)), maxsplit=1)[0]


def completed(side: Tensors, other: Tensors, naming: Naming) -> dict[str, TensorHandle]:
    """The side's tensors, with those it left out because it shares their storage put back."""
    missing = {name: naming.place(name).role for name in other if name not in side}
    added = dict(side)
    for tie in naming.ties:
        wanted = [name for name, role in missing.items() if role == tie.role]
        source = _source(side, tie, naming) if wanted else None
        added |= {name: side[source] for name in wanted if source is not None}
    return added


def _source(side: Tensors, tie: Tie, naming: Naming) -> str | None:
    """The one tensor that the tie names; `shared` before a copy of it that a stack holds."""
    places = {name: naming.place(name) for name in side}
    found = [name for name, place in places.items() if place.role == tie.source and place.layer is None]
    outside = [name for name in found if places[name].stack == tie.stack]
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
