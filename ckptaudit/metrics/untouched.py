"""Roles and towers that a run changed nowhere: frozen, or lost on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ckptaudit.findings import Finding
from ckptaudit.metrics.movement import Movement, Part

UNTOUCHED = "not changed anywhere"
NAMED = 8


def untouched(movement: Movement) -> Iterator[Finding]:
    """A finding for each tower, and for each group of roles of matrices, that changed nowhere.

    Vectors are left out: norm gains near 1 keep their value in bf16 at the step sizes of reinforcement learning.
    """
    moved = {p.place.stack for p in movement.parts if p.changed}
    if not moved:
        return
    stacks: dict[str, list[Part]] = {}
    for part in movement.parts:
        stacks.setdefault(part.place.stack, []).append(part)
    for stack, parts in stacks.items():
        if stack in moved:
            yield from _roles(movement, stack, parts)
        elif any(p.tensor.is_matrix for p in parts):
            yield Finding(stack or "text model", UNTOUCHED, f"all of its {len(parts)} tensors are the base's")


def _roles(movement: Movement, stack: str, parts: Sequence[Part]) -> Iterator[Finding]:
    groups: dict[str, list[Part]] = {}
    for part in parts:
        if part.tensor.is_matrix and not movement.changed_of[part.kin]:
            groups.setdefault("experts" if part.place.in_experts else part.tensor.group, []).append(part)
    for group, still in groups.items():
        roles = list(dict.fromkeys(p.place.role for p in still))
        named = f"{', '.join(roles[:NAMED])}{f' and {len(roles) - NAMED} more' if len(roles) > NAMED else ''}"
        count = f"all {len(still)} tensors are" if len(still) > 1 else "the tensor is"
        prefix = f"{stack}: " if stack else ""
        yield Finding(prefix + named, UNTOUCHED, f"{count} bitwise the base's while other roles changed ({group})")
