"""How a stored tensor becomes matrices: turned, unstacked, split. Arithmetic on shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ckptaudit.naming.rules import Size

ENTRIES = "entries"
"""As a number of groups: the parts take turns entry by entry."""


@dataclass(frozen=True, slots=True)
class Part:
    """One role's share of a fused output axis: entries `start` to `stop` of each of `groups` equal runs."""

    role: str
    groups: int
    start: int
    stop: int

    @property
    def length(self) -> int:
        """Output entries in all."""
        return self.groups * (self.stop - self.start)


@dataclass(frozen=True, slots=True)
class Layout:
    """What a stored tensor holds.

    `stacked`: its first axis counts experts. `turned`: a matrix is stored `[in, out]`. `parts`:
    the shares of its output axis, none where it is one weight. `doubt`: why a fused tensor is kept whole.
    """

    stacked: bool = False
    turned: bool = False
    parts: tuple[Part, ...] = ()
    doubt: str = ""


def parts_of(length: int, groups: Size, sizes: Mapping[str, Size], numbers: Mapping[str, int]) -> tuple[Part, ...]:
    """The shares of an output axis of this length. Raises ValueError, saying what does not work out."""
    widths = {role: _size(size, numbers) for role, size in sizes.items()}
    whole = sum(widths.values())
    count = length // whole if groups == ENTRIES else _size(groups, numbers)
    if not count or length % (count * whole):
        raise ValueError(
            f"config.json implies {count} x {whole} equal shares, its {length} outputs do not divide so"
        )
    unit = length // (count * whole)
    parts, start = [], 0
    for role, width in widths.items():
        parts.append(Part(role, count, start, start + width * unit))
        start += width * unit
    return tuple(parts)


def _size(size: Size, numbers: Mapping[str, int]) -> int:
    if isinstance(size, int):
        return size
    if size not in numbers:
        raise ValueError(f"config.json does not give the number of {size.replace('_', ' ')}")
    return numbers[size]
