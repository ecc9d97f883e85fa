"""Groups of roles: those that a check may select, and the one primary group of each tensor."""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import lru_cache

from ckptaudit.naming.rules import rules

OTHER = "other"
"""The primary group of a weight that is in no other."""

PRIMARY_GROUPS = (*dict.fromkeys((*rules().primary_groups, "norm", "bias", "attention", "mlp")), OTHER)
"""Groups that share the tensors out among them; every tensor is in exactly one."""

GROUPS = tuple(dict.fromkeys(("all", "matrix", "expert", *rules().groups, *rules().vector_groups, *PRIMARY_GROUPS)))
"""What a check may select besides roles; a tensor may be in several."""


@lru_cache(maxsize=4096)
def in_groups(role: str, groups: tuple[str, ...], *, is_matrix: bool, in_experts: bool = False) -> bool:
    """Does a tensor of this role belong to any of the groups, role names or role globs?"""
    return any(_in_group(role, group, is_matrix, in_experts) for group in groups)


@lru_cache(maxsize=4096)
def primary_group(role: str, *, is_matrix: bool, floating: bool = True) -> str:
    """The one primary group of a weight of this role: the first that fits, `other` if none does.

    What is not floating point is not trained: it is among the `statistics`.
    """
    if not floating:
        return "statistics"
    is_matrix = is_matrix and not role.endswith(".bias")  # those of stacked experts have two axes
    return next((group for group in _order(is_matrix) if _is_primary(role, group, is_matrix)), OTHER)


def is_known(role: str, *, is_matrix: bool) -> bool:
    """Whether a rule names the role: it has a primary group of its own, or is listed as known without one."""
    return primary_group(role, is_matrix=is_matrix) != OTHER or _matches(role, rules().known)


def _order(is_matrix: bool) -> tuple[str, ...]:
    """A router's bias is the router's before it is a bias; one of a vision tower is a bias first."""
    first = ("statistics", "router", "sinks", "scalars")
    vectors = () if is_matrix else ("bias", "norm")
    rest = (group for group in PRIMARY_GROUPS if group not in (*first, *vectors, OTHER))
    return (*first, *vectors, *rest)


def _is_primary(role: str, group: str, is_matrix: bool) -> bool:
    known = rules()
    if group in known.primary_groups:
        return _matches(role, known.primary_groups[group])
    if group in known.vector_groups:
        return not is_matrix and _matches(role, known.vector_groups[group])
    return is_matrix and _matches(role, known.groups[group])


def _in_group(role: str, group: str, is_matrix: bool, in_experts: bool) -> bool:
    if group in PRIMARY_GROUPS and primary_group(role, is_matrix=is_matrix) == group:
        return True
    return _in_selection(role, group, is_matrix, in_experts)


def _in_selection(role: str, group: str, is_matrix: bool, in_experts: bool) -> bool:
    known = rules()
    if group in ("all", "matrix"):
        return is_matrix or group == "all"
    if group == "expert":
        return is_matrix and in_experts
    if group == "norm" and _matches(role, known.vector_groups["bias"]):
        return False
    if group in known.vector_groups:
        return not is_matrix and _matches(role, known.vector_groups[group])
    if group in known.groups:
        return is_matrix and _matches(role, known.groups[group])
    return group not in GROUPS and fnmatchcase(role, group)


def _matches(role: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(role, pattern) for pattern in patterns)
