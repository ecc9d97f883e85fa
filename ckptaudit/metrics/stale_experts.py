"""Experts at the base: one that no token reached keeps its weights, one at the base in every layer was lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from ckptaudit.findings import Finding
from ckptaudit.metrics.movement import Movement, Part

BY_CHANCE = 1e-3
"""Expected number of experts at the base in every layer by chance, below which one is a finding."""

Cell = tuple[int | None, int]
"""Layer and expert."""


@dataclass(frozen=True)
class Experts:
    """The routed experts of a stack: which are at the base in which layers."""

    stack: str
    cells: frozenset[Cell]
    still: frozenset[Cell]

    @cached_property
    def layers(self) -> frozenset[int | None]:
        """Layers with experts that changed; one without any is another matter."""
        return frozenset(layer for layer, _ in self.cells - self.still)

    @cached_property
    def lost(self) -> tuple[int, ...]:
        """Experts at the base in every layer, where that is no chance.

        With q the share of cells at the base among the other experts, each with one added, E experts over L layers
        have E q^L such by chance.
        """
        numbers = {expert for _, expert in self.cells}
        everywhere = {e for e in numbers if self.layers and all((at, e) in self.still for at in self.layers)}
        others = [cell for cell in self.cells if cell[1] not in everywhere and cell[0] in self.layers]
        q = (sum(cell in self.still for cell in others) + 1) / (len(others) + 1)
        expected = len(numbers) * q ** len(self.layers)
        return tuple(sorted(everywhere)) if expected < BY_CHANCE else ()

    @cached_property
    def unused(self) -> tuple[Cell, ...]:
        """Further cells at the base, in layers whose other experts changed."""
        lost = set(self.lost)
        return tuple(sorted((c for c in self.still if c[1] not in lost and c[0] in self.layers), key=str))


def experts_at_base(movement: Movement) -> Iterator[Finding]:
    """Experts that are the base's in every layer."""
    for experts in _experts(movement):
        for number in experts.lost:
            name = f"{experts.stack}.expert {number}" if experts.stack else f"expert {number}"
            where = f"in all {len(experts.layers)} layers in which other experts changed"
            yield Finding(name, "bitwise the base's", f"{where}; one rank of a save by experts may be stale")


def untouched_experts(movement: Movement) -> Iterator[Finding]:
    """Experts that are the base's in some layers: no token may have reached them."""
    for experts in _experts(movement):
        unused = experts.unused
        if unused:
            first = ", ".join(f"{expert} of layer {layer}" for layer, expert in unused[:4])
            more = f" and {len(unused) - 4} more" if len(unused) > 4 else ""
            said = f"expert {first}{more} of {len(experts.cells)} are the base's; perhaps no token reached them"
            yield Finding(f"{experts.stack}.experts" if experts.stack else "experts", "some not changed", said)


def _experts(movement: Movement) -> Iterator[Experts]:
    stacks: dict[str, dict[Cell, list[Part]]] = {}
    for part in movement.expected:
        if part.expert is not None:
            cell = (part.place.layer, part.expert)
            stacks.setdefault(part.place.stack, {}).setdefault(cell, []).append(part)
    for stack, cells in stacks.items():
        still = {cell for cell, parts in cells.items() if all(p.name in movement.stale for p in parts)}
        yield Experts(stack, frozenset(cells), frozenset(still))
