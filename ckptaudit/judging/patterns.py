"""What a configuration's names mean in a pair: roles, layers, tensors and subjects, or the nearest there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from ckptaudit.errors import printable
from ckptaudit.judging.config import Override
from ckptaudit.judging.selection import Part
from ckptaudit.naming import in_groups

SHOWN = 5
"""How many names a sentence offers."""


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


def meant(override: Override, part: Part) -> bool:
    """Whether an override is about this matrix: every selector it has must agree."""
    return (
        (not override.roles or any(_has_role(part, role) for role in override.roles))
        and (not override.layers or part.tensor.place.layer in override.layers)
        and (not override.tensors or any(fits(glob, part.name, part.tensor.name) for glob in override.tensors))
    )


def meant_for_nothing(override: Override, parts: Sequence[Part]) -> Iterator[str]:
    """Every name in an override's selectors that selects nothing; or that together they do."""
    places = [part.tensor.place for part in parts]
    found = 0
    for role in override.roles:
        if not any(_has_role(part, role) for part in parts):
            found += 1
            yield f"key roles: {printable(role)!r} {_nothing(role, (p.role for p in places))}"
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
            yield f"key tensors: {printable(glob)!r} {_nothing(glob, (p.tensor.name for p in parts))}"
    if not found and not any(meant(override, part) for part in parts):
        yield f"{override.scope}: together they select none of the check's tensors"


def _has_role(part: Part, role: str) -> bool:
    place = part.tensor.place
    return in_groups(place.role, (role,), is_matrix=part.tensor.is_matrix, in_experts=place.in_experts)


def _nothing(name: str, known: Iterable[str]) -> str:
    return f"selects none of the check's tensors; {near(name, known)}"
