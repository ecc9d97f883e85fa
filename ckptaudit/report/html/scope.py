"""Which checks speak of which weights, read off a result alone."""

from __future__ import annotations

from functools import lru_cache

from ckptaudit.naming import Place, in_groups, place
from ckptaudit.results.records import CheckRow, MeasurementRow

BODY = ("attention", "mlp")
"""The matrices that published figures are about."""


@lru_cache(maxsize=1 << 17)
def place_of(tensor: str) -> Place:
    """Where a tensor sits; rows carry layer and role, the stack is in the name."""
    return place(tensor)


def subject_of(row: MeasurementRow) -> str:
    """The subject of the verdicts that a measurement counts for: `layers.3`, `embed_tokens`."""
    where = row.role.removesuffix(".bias") if row.layer is None else f"layers.{row.layer}"
    stack = place_of(row.tensor).stack
    return f"{stack}.{where}" if stack else where


def covers(check: CheckRow, row: MeasurementRow) -> bool:
    """Whether a check is about this measurement: its metric, and a tensor among its roles."""
    return check.metric == row.metric and _is_in(check.roles, row.role, len(row.shape) >= 2, _in_experts(row))


def is_body(row: MeasurementRow) -> bool:
    """Whether the tensor is an attention or MLP matrix of a layer."""
    return row.layer is not None and _is_in(BODY, row.role, len(row.shape) >= 2, _in_experts(row))


def _in_experts(row: MeasurementRow) -> bool:
    return place_of(row.tensor).in_experts


@lru_cache(maxsize=1 << 14)
def _is_in(groups: tuple[str, ...], role: str, is_matrix: bool, in_experts: bool) -> bool:
    return in_groups(role, groups, is_matrix=is_matrix, in_experts=in_experts)
