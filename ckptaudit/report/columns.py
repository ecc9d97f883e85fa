"""Rows as aligned columns of text, the last of which takes what is left of the line."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from ckptaudit.report.appearance import shortened

GAP = 2
LEAST = 8
"""The narrowest last column worth having."""

LEAST_FOR_SENTENCE = 40
"""A sentence that has less room than this stands below its row."""


@dataclass(frozen=True)
class Column:
    """A column by its heading; `right` aligns numbers, `sentence` wraps where a name would be cut."""

    heading: str
    right: bool = False
    sentence: bool = False


def aligned(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int, indent: int) -> list[str]:
    """A heading and the rows, without columns that hold nothing; no line is wider than `width` if that can be."""
    kept = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    if not kept:
        return []
    shown = [columns[i] for i in kept]
    cells = [[column.heading for column in shown], *([row[i] for i in kept] for row in rows)]
    sizes = [max(len(row[i]) for row in cells) for i in range(len(shown))]
    if indent + sum(size + GAP for size in sizes[:-1]) + LEAST > width:
        return [line for row in cells[1:] for line in _stacked(row, width)]
    room = max(width - indent - sum(size + GAP for size in sizes[:-1]), LEAST)
    return [line for row in cells for line in _lines(shown, row, sizes, room, indent)]


def _stacked(row: Sequence[str], width: int) -> list[str]:
    """A row where there is no room for columns: its cells one behind the other."""
    told = ", ".join(filter(None, row))
    return textwrap.wrap(told, max(width, 2 * LEAST), initial_indent="  ", subsequent_indent="    ")


def _lines(
    columns: Sequence[Column], row: Sequence[str], sizes: Sequence[int], room: int, indent: int
) -> list[str]:
    line = " " * indent
    for column, cell, size in zip(columns[:-1], row[:-1], sizes[:-1], strict=True):
        line += (cell.rjust(size) if column.right else cell.ljust(size)) + " " * GAP
    last = row[-1]
    if columns[-1].right:
        return [f"{line}{last.rjust(sizes[-1])}"]
    if not columns[-1].sentence:
        return [f"{line}{shortened(last, room)}".rstrip()]
    if room < LEAST_FOR_SENTENCE:
        below = (
            textwrap.wrap(last, max(room + len(line) - indent - GAP, LEAST)) if last != columns[-1].heading else []
        )
        return [line.rstrip(), *(f"{' ' * (indent + GAP)}{part}" for part in below)]
    parts = textwrap.wrap(last, room) or [""]
    return [f"{line}{parts[0]}".rstrip(), *(f"{' ' * len(line)}{part}" for part in parts[1:])]
