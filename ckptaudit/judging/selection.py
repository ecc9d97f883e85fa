"""Which tensors of a pair a check is about, on which subjects it gives a verdict, and what a name selects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from ckptaudit.errors import printable
from ckptaudit.judging.checks import Check
from ckptaudit.judging.config import Override
from ckptaudit.measurement.jobs import condition_of
from ckptaudit.metrics import METRICS, FindingsMetric
from ckptaudit.metrics.groups import counts
from ckptaudit.naming import in_groups
from ckptaudit.naming.groups import OTHER
from ckptaudit.pairing import AlignedTensor, ModelPair
from ckptaudit.pairing.model_pair import Condition, Selected

MODEL = "model"

ROLLOUTS = "rollouts"
"""The subject of a check of rollouts; its steps are to it what tensors are to a layer."""

PROBES = "probes"
"""The subject of a check of behavior; its probe sets are to it what tensors are to a layer."""

BLOCKS = frozenset({"attention", "mlp"})
IN_PLACE_OF_BLOCKS = ("state_space", "linear_attention")

SHOWN = 5
"""How many names a sentence offers."""


@dataclass(frozen=True, slots=True)
class JudgedMatrix:
    """A matrix that a verdict rests on, and the weight it is of."""

    name: str
    tensor: AlignedTensor


@dataclass(frozen=True, slots=True)
class Selection:
    """The tensors of some roles that meet a condition, of whatever pair and subject."""

    roles: tuple[str, ...]
    condition: Condition | None

    def by_subject(self, pair: ModelPair) -> Selected:
        """All of a pair's, by subject."""
        return pair.select(self.roles, self.condition)

    def of(self, pair: ModelPair, subject: str) -> tuple[AlignedTensor, ...]:
        """Those of a subject; of all where it is none of the pair's."""
        if subject in pair.subjects:
            return self.by_subject(pair).get(subject, ())
        return pair.select_all(self.roles, self.condition)


def may_lack(check: Check, pair: ModelPair) -> bool:
    """Whether a model may be without the weights that a check is about, which is then skipped and no error.

    The check says so itself; or it is about attention and MLP, and this model has state-space or linear-attention
    weights in their place, as Mamba has, and no weight that is not recognised.
    """
    if check.optional:
        return True
    if not set(check.roles) <= BLOCKS:
        return False
    return bool(pair.select_all(IN_PLACE_OF_BLOCKS, None)) and not pair.select_all((*BLOCKS, OTHER), None)


def selected(check: Check, pair: ModelPair, subject: str) -> tuple[AlignedTensor, ...]:
    """The tensors of a subject (of all, for the model) that the check is about and its metric applies to."""
    if not _looks_at_weights(check):
        return ()
    if check.per == "matrix" and subject not in pair.subjects and subject in pair.holders:
        return (pair.holders[subject],)
    return selection_of(check).of(pair, subject)


def selection_of(check: Check) -> Selection:
    """The tensors that a check of weights is about and its metric applies to."""
    condition = condition_of(check.metric) if check.scope in ("matrix", "runs") else counts
    return Selection(check.roles, condition)


def _looks_at_weights(check: Check) -> bool:
    metric = METRICS[check.metric]
    return check.scope in ("matrix", "runs", "group") or (isinstance(metric, FindingsMetric) and metric.covers)


def _by_subject(check: Check, pair: ModelPair) -> Selected:
    return selection_of(check).by_subject(pair) if _looks_at_weights(check) else {}


def subjects(check: Check, pair: ModelPair) -> dict[str, bool]:
    """Whatever the check gives a verdict on, and whether there is a weight to look at; the keys of `parts`."""
    if check.counts_findings or check.scope in ("rollouts", "probes"):
        return dict.fromkeys(parts(check, pair), False)
    chosen = _by_subject(check, pair)
    if check.per == "model":
        return {MODEL: bool(chosen)}
    if check.per == "layer":
        return dict.fromkeys(chosen, True)
    return {name: True for tensors in chosen.values() for tensor in tensors for name in tensor.matrix_names()}


def parts(check: Check, pair: ModelPair) -> dict[str, list[JudgedMatrix]]:
    """By subject, the matrices that its verdict rests on; none for a check that looks at no weight."""
    if check.counts_findings:
        return {MODEL: []}
    if check.scope == "rollouts":
        return {ROLLOUTS: []}
    if check.scope == "probes":
        return {PROBES: []}
    found: dict[str, list[JudgedMatrix]] = {MODEL: []} if check.per == "model" else {}
    for subject, tensors in _by_subject(check, pair).items():
        for tensor in tensors:
            for name in tensor.matrix_names():
                owner = {"model": MODEL, "layer": subject, "matrix": name}[check.per]
                found.setdefault(owner, []).append(JudgedMatrix(name, tensor))
    return found


def near(name: str, known: Iterable[str]) -> str:
    """A phrase naming what was probably meant, or the first few that there are."""
    names = list(dict.fromkeys(known))
    close = get_close_matches(name, names, n=3, cutoff=0.4)
    if close:
        return f"did you mean {', '.join(map(printable, close))}?"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"known are {', '.join(map(printable, names[:SHOWN])) or 'none'}{more}"


def fits(pattern: str, *names: str) -> bool:
    """Whether any of the names is the one meant, or matches it as a glob."""
    return any(pattern == name or fnmatchcase(name, pattern) for name in names)


def selects(override: Override, part: JudgedMatrix) -> bool:
    """Whether an override is about this matrix: every selector it has must agree."""
    return (
        (not override.roles or any(_has_role(part, role) for role in override.roles))
        and (not override.layers or part.tensor.place.layer in override.layers)
        and (not override.tensors or any(fits(glob, part.name, part.tensor.name) for glob in override.tensors))
    )


def selects_nothing(override: Override, parts: Sequence[JudgedMatrix]) -> Iterator[str]:
    """Every name in an override's selectors that selects nothing; or that together they do."""
    places = [part.tensor.place for part in parts]
    found = 0
    for role in override.roles:
        if not any(_has_role(part, role) for part in parts):
            found += 1
            yield f"key roles: '{printable(role)}' {_nothing(role, (p.role for p in places))}"
    for layer in override.layers:
        if not any(p.layer == layer for p in places):
            found += 1
            numbers = sorted({p.layer for p in places if p.layer is not None})
            there = (
                f"there are layers {numbers[0]} to {numbers[-1]}" if numbers else "it is about no numbered layer"
            )
            yield f"key layers: {layer} selects none of the check's tensors; {there}"
    for glob in override.tensors:
        if not any(fits(glob, part.name, part.tensor.name) for part in parts):
            found += 1
            yield f"key tensors: '{printable(glob)}' {_nothing(glob, (p.tensor.name for p in parts))}"
    if not found and not any(selects(override, part) for part in parts):
        yield f"{override.scope}: together they select none of the check's tensors"


def _has_role(part: JudgedMatrix, role: str) -> bool:
    place = part.tensor.place
    return in_groups(place.role, (role,), is_matrix=part.tensor.is_matrix, in_experts=place.in_experts)


def _nothing(name: str, known: Iterable[str]) -> str:
    return f"selects none of the check's tensors; {near(name, known)}"
