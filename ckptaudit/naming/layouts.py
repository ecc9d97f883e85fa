"""How a stored tensor becomes matrices: turned, unstacked, split. Arithmetic on shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ckptaudit.naming.rules import Size

ENTRIES = "entries"
"""As a number of groups: the parts take turns entry by entry."""


@dataclass(frozen=True, slots=True)
class Part:
    """One role's share of a fused output axis: entries `start` to `stop` of each of `groups` equal runs.

    With `interleaved` heads, each head's entries alternate between two halves and are put in order.
    """

    role: str
    groups: int
    start: int
    stop: int
    interleaved: int = 0

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


def with_lengths(parts: tuple[Part, ...], lengths: tuple[int, ...]) -> tuple[Part, ...]:
    """The same roles in the same order along one run, with these lengths."""
    starts = (sum(lengths[:i]) for i in range(len(lengths)))
    return tuple(
        Part(part.role, 1, start, start + length, part.interleaved)
        for part, start, length in zip(parts, starts, lengths, strict=True)
    )


def put_in_order(
    parts: tuple[Part, ...], heads: Mapping[str, Size], numbers: Mapping[str, int]
) -> tuple[Part, ...]:
    """The parts with the number of heads whose entries alternate. Raises ValueError where it does not divide."""
    counts = {role: _size(size, numbers) for role, size in heads.items()}
    for part in parts:
        if part.length % (2 * counts.get(part.role, 1)) and part.role in counts:
            raise ValueError(f"config.json gives {counts[part.role]} heads, {part.length} rows do not divide so")
    return tuple(replace(part, interleaved=counts.get(part.role, 0)) for part in parts)


def _size(size: Size, numbers: Mapping[str, int]) -> int:
    if isinstance(size, int):
        return size
    if size not in numbers:
        raise ValueError(f"config.json does not give the number of {size.replace('_', ' ')}")
    return numbers[size]
