"""Where a measured tensor sits, for reports that are made from the result alone."""

from __future__ import annotations

import re
from functools import lru_cache

from ckptaudit import naming
from ckptaudit.judging.verdict import Verdict
from ckptaudit.metrics import Measurement
from ckptaudit.metrics.descriptions import scope_of
from ckptaudit.naming import Place, in_groups, place
from ckptaudit.results.records import CheckRecord

BODY = ("attention", "mlp")
"""The matrices that published figures are about."""


def subject_of(row: Measurement) -> str:
    """The subject that a per-layer verdict about this tensor carries."""
    where = row.role.removesuffix(".bias") if row.layer is None else f"layers.{row.layer}"
    stack = stack_of(row.tensor)
    return f"{stack}.{where}" if stack else where


def stack_of(tensor: str) -> str:
    """The stack a tensor belongs to, such as a vision tower; empty for a plain decoder."""
    return _place(tensor).stack


def covers(check: CheckRecord, m: Measurement) -> bool:
    """Whether a check is about this measurement: its metric, and a tensor among its roles."""
    return check.metric == m.metric and _selected(
        m.role, check.roles, len(m.shape) > 1, _place(m.tensor).in_experts
    )


def is_body(m: Measurement) -> bool:
    """Whether the tensor is an attention or MLP matrix of a layer."""
    return m.layer is not None and _selected(m.role, BODY, len(m.shape) > 1, _place(m.tensor).in_experts)


def short_name(tensor: str) -> str:
    """`L3 down_proj`, `L3 expert 7 up_proj`: a measured weight's place in few letters."""
    return naming.short_name(naming.place_of_weight(tensor))


def names_a_weight(verdict: Verdict) -> bool:
    """Whether what a verdict names as worst is a weight, and not a file, a step or a set of probes."""
    return scope_of(verdict.metric) in (None, "matrix", "group", "runs")


@lru_cache(maxsize=4096)
def _place(tensor: str) -> Place:
    # Which number stands in a name says nothing about the stack; a model of experts has few names but for them.
    return _place_of_pattern(re.sub(r"[0-9]{1,9}", "0", tensor))


_place_of_pattern = lru_cache(maxsize=4096)(place)


@lru_cache(maxsize=4096)
def _selected(role: str, roles: tuple[str, ...], is_matrix: bool, in_experts: bool) -> bool:
    return in_groups(role, roles, is_matrix=is_matrix, in_experts=in_experts)
