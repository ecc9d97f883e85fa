"""The steps of pairing: bring names together, lay tensors out as weights, align, look for other layouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ckptaudit.checkpoints import Checkpoint, TensorHandle
from ckptaudit.errors import PairingError, printable
from ckptaudit.findings import Finding
from ckptaudit.naming import Naming, Place, in_groups, rules
from ckptaudit.pairing.model_pair import AlignedTensor, Fault, ModelPair
from ckptaudit.pairing.names import completed, container, layers_apart, renamed
from ckptaudit.pairing.views import View, first_rows, unstacked, views_like, views_of

Tensors = Mapping[str, TensorHandle]

TELLING = ("attention", "mlp", "router", "embedding")
"""Groups whose roles identify a weight within its layer well enough to align it under another name."""


@dataclass(slots=True)
class _Findings:
    aligned: list[AlignedTensor] = field(default_factory=list)
    unaligned: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    whole: dict[str, list[str]] = field(default_factory=dict)
    """Fused tensors that stay whole, by the reason why."""

    def pair(self, base: Checkpoint, tuned: Checkpoint) -> ModelPair:
        whole = (_counted("fused tensor", names, f"kept whole: {why}") for why, names in self.whole.items())
        return ModelPair(
            base,
            tuned,
            tuple(sorted(self.aligned, key=lambda tensor: tensor.name)),
            tuple(sorted(self.unaligned, key=lambda fault: fault.tensor)),
            (*self.notes, *whole, *self._retyped()),
        )

    def _retyped(self) -> Iterator[str]:
        """What is stored in another floating-point type on the tuned side, by the two types."""
        names: dict[tuple[str, str], list[str]] = {}
        for t in self.aligned:
            if t.base.precision != t.tuned.precision and "float" in t.base.dtype and "float" in t.tuned.dtype:
                names.setdefault((t.base.precision, t.tuned.precision), []).append(t.name)
        for (before, after), its in sorted(names.items()):
            yield _counted("tensor", its, f"stored in {after} in the tuned checkpoint and in {before} in the base")


def pair_checkpoints(base: Checkpoint, tuned: Checkpoint) -> ModelPair:
    """Align two checkpoints, weight by weight. Raises PairingError if nothing corresponds."""
    found = _Findings()
    names = (*base.tensors, *tuned.tensors)
    naming = Naming(base.config or tuned.config, names)
    left, right = _with_common_names(base, tuned, naming, found)
    for name in sorted(left.keys() & right.keys()):
        _align(name, left[name], right[name], naming, found)
    rest = _views_of_the_rest(left, right, naming)
    _align_rest(*rest, naming, found, same_kind=_same_kind(base, tuned))
    if not found.aligned and not any(u.fault == "shapes differ" for u in found.unaligned):
        raise _nothing_in_common(base, tuned)
    return found.pair(base, tuned)


def _views_of_the_rest(left: Tensors, right: Tensors, naming: Naming) -> tuple[list[View], list[View]]:
    """The weights of what has no name in common, each side divided with an eye to the other."""
    sides = ((left, left.keys() - right.keys()), (right, right.keys() - left.keys()))
    views = [[view for name in sorted(names) for view in views_of(name, t[name], naming)] for t, names in sides]
    return _divided_alike(left, views[0], views[1], naming), _divided_alike(right, views[1], views[0], naming)


def _divided_alike(tensors: Tensors, views: list[View], others: list[View], naming: Naming) -> list[View]:
    shapes = {place: view.shape for place, view in _by_place(others).items() if not view.divided}
    if not shapes:
        return views
    names = dict.fromkeys(view.stored for view in views)
    return [view for name in names for view in views_like(name, tensors[name], naming, shapes)]


def _with_common_names(
    base: Checkpoint, tuned: Checkpoint, naming: Naming, found: _Findings
) -> tuple[Tensors, Tensors]:
    """Both sides' tensors under the base's names."""
    left, theirs = layers_apart(base.tensors, naming), layers_apart(tuned.tensors, naming)
    names = renamed(left, theirs, naming)
    right = {names.get(name, name): handle for name, handle in theirs.items()}
    if names:
        found.notes.append(_counted("tensor", names.values(), "under another prefix in the tuned checkpoint"))
    return (
        completed(left, right, naming),
        completed(right, left, Naming(tuned.config or base.config)),
    )


def _align(name: str, base: TensorHandle, tuned: TensorHandle, naming: Naming, found: _Findings) -> None:
    left, right = views_of(name, base, naming), views_of(name, tuned, naming)
    if left[0].doubt:
        found.whole.setdefault(left[0].doubt, []).append(name)
    if [(v.name, v.shape) for v in left] == [(v.name, v.shape) for v in right]:
        found.aligned += (_aligned(a, b) for a, b in zip(left, right, strict=True))
    elif _differs_in_rows(base, tuned) and naming.place(name).role in rules().vocabulary:
        rows = min(base.shape[0], tuned.shape[0])
        _align(name, first_rows(base, rows), first_rows(tuned, rows), naming, found)
        fault: Fault = "rows beyond the common vocabulary"
        found.unaligned.append(Finding(name, fault, f"{_shapes(base, tuned)}; the first {rows} are compared"))
    else:
        found.unaligned.append(Finding(name, "shapes differ", _shapes(base, tuned)))


def _aligned(base: View, tuned: View) -> AlignedTensor:
    return AlignedTensor(base.name, base.handle, tuned.handle, base.place, base.stacked)


def _align_rest(
    left: Sequence[View], right: Sequence[View], naming: Naming, found: _Findings, *, same_kind: bool
) -> None:
    """What no name pairs: perhaps one side stores fused or stacked what the other stores apart."""
    bases, tuneds = _by_place(left), _by_place(right)
    pairs = [(bases[p], tuneds[p]) for p in bases if p in tuneds and bases[p].shape == tuneds[p].shape]
    pairs = [(a, b) for a, b in pairs if _stand_together(a, b, naming)]
    sure = [(a, b) for a, b in pairs if a.divided or b.divided or in_groups(a.place.role, TELLING, is_matrix=True)]
    if not same_kind or not any(a.divided or b.divided for a, b in sure):
        sure = []
    found.aligned += (_aligned(a, b) for a, b in sure)
    if sure:
        names = (a.name for a, _ in sure)
        found.notes.append(_counted("weight", names, "stored in another layout in the tuned checkpoint"))
    found.unaligned += _leftover(left, {a.name for a, _ in sure}, "only in base")
    found.unaligned += _leftover(right, {b.name for _, b in sure}, "only in tuned")


def _stand_together(base: View, tuned: View, naming: Naming) -> bool:
    """Whether two weights of one place can be the same: those of layers stand in the same module."""
    return base.place.layer is None or container(base.stored, naming) == container(tuned.stored, naming)


def _by_place(views: Iterable[View]) -> dict[Place, View]:
    """Single weights by place, where a place belongs to one alone."""
    single = [v for view in views for v in unstacked(view)]
    counts = Counter(v.place for v in single)
    return {v.place: v for v in single if counts[v.place] == 1}


def _leftover(views: Sequence[View], taken: set[str], fault: Fault) -> Iterator[Finding]:
    """The tensors of which nothing was aligned, and of the others the weights that were not."""
    single = [v for view in views for v in unstacked(view)]
    used = {v.stored for v in single if v.name in taken}
    missing = (v.name if v.stored in used else v.stored for v in single if v.name not in taken)
    yield from (Finding(name, fault) for name in dict.fromkeys(missing))


def _same_kind(base: Checkpoint, tuned: Checkpoint) -> bool:
    """Whether nothing says that these are different architectures."""
    kinds = [kind for c in (base, tuned) if (kind := c.config.get("model_type")) is not None]
    return all(kind == kinds[0] for kind in kinds)


def _differs_in_rows(base: TensorHandle, tuned: TensorHandle) -> bool:
    return bool(base.shape and tuned.shape) and base.shape[1:] == tuned.shape[1:]


def _shapes(base: TensorHandle, tuned: TensorHandle) -> str:
    return f"base {list(base.shape)}, tuned {list(tuned.shape)}"


def _counted(noun: str, names: Iterable[str], what: str) -> str:
    found = sorted(names)
    plural = "" if len(found) == 1 else "s"
    return f"{len(found)} {noun}{plural} {what} ({printable(found[0])[:120]}{', ...' if plural else ''})"


def _nothing_in_common(base: Checkpoint, tuned: Checkpoint) -> PairingError:
    return PairingError(
        f"{printable(base.path)} and {printable(tuned.path)} have no tensor name in common "
        f"(base has {_example(base)}, tuned has {_example(tuned)}); pass the base that this run started from."
    )


def _example(checkpoint: Checkpoint) -> str:
    return printable(next(iter(checkpoint.tensors)))[:80]
