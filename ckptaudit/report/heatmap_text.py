"""A heatmap in letters: readable without colour, on any terminal and in any log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil

from rich.text import Text

from ckptaudit.errors import printable
from ckptaudit.report.appearance import shortened
from ckptaudit.report.heatmap import FAR, VERY_FAR, Grid, Shade

SYMBOLS = {
    Shade.HOLDS: ".",
    Shade.UNSETTLED: "?",
    Shade.WAIVED: "w",
    Shade.OVER: "o",
    Shade.FAR_OVER: "O",
    Shade.BEYOND: "#",
    Shade.UNKNOWN: "!",
}
COLOURS = {
    Shade.HOLDS: "green",
    Shade.UNSETTLED: "",
    Shade.WAIVED: "yellow",
    Shade.OVER: "yellow",
    Shade.FAR_OVER: "red",
    Shade.BEYOND: "bold red",
    Shade.UNKNOWN: "bold magenta",
}
MEANINGS = {
    Shade.HOLDS: "passed",
    Shade.UNSETTLED: "known only as a bound beyond the limit",
    Shade.WAIVED: "waived",
    Shade.OVER: f"failed, up to {FAR:g}x the limit",
    Shade.FAR_OVER: f"up to {VERY_FAR:g}x",
    Shade.BEYOND: "beyond that",
    Shade.UNKNOWN: "not computable",
}
ROWS = 16
LABEL = 24


def heatmap_lines(maps: Sequence[Grid], width: int) -> list[Text]:
    """Every grid that has anything to show, and one legend; nothing where nothing is marked."""
    drawn = [line for grid in maps if _is_marked(grid) for line in _grid_lines(grid, width)]
    return [*drawn, *_legend(maps, width)] if drawn else []


def _is_marked(grid: Grid) -> bool:
    return any(shade > Shade.HOLDS for shade in (*grid.cells.values(), *grid.outside.values()))


def _grid_lines(grid: Grid, width: int) -> list[Text]:
    roles, hidden = _shown(grid)
    outside = _outside(grid)
    label = min(LABEL, max(map(len, (*map(printable, (*roles, *outside)), "layer"))), max(width // 3, 8))
    layers = grid.layers
    per_column = max(1, ceil(len(layers) / max(width - label - 2, 1)))
    columns = [layers[i : i + per_column] for i in range(0, len(layers), per_column)]
    pitch = 2 if 2 * len(columns) <= width - label - 2 else 1
    lines = [Text(f"stack {printable(grid.stack)}")] if grid.stack else []
    if columns:
        lines.append(Text(f"{'layer'.ljust(label)}  {_axis(columns, pitch)}"))
    lines += [_role_line(grid, role, columns, label, pitch) for role in roles]
    if per_column > 1:
        lines.append(Text(f"a column is {per_column} layers, the worst of them"))
    if hidden:
        lines.append(Text(f"and {hidden} more roles"))
    return lines + [_named(role, label).append(SYMBOLS[s], style=COLOURS[s]) for role, s in outside.items()]


def _shown(grid: Grid) -> tuple[list[str], int]:
    """Roles with marks come first where there are too many for all."""
    roles = grid.roles
    if len(roles) <= ROWS:
        return roles, 0
    worst = {role: max(s for (_, r), s in grid.cells.items() if r == role) for role in roles}
    chosen = sorted(roles, key=lambda role: -worst[role])[:ROWS]
    return [role for role in roles if role in chosen], len(roles) - len(chosen)


def _axis(columns: Sequence[Sequence[int]], pitch: int) -> str:
    every = 1 if columns[-1][0] < 10 and pitch > 1 else 10 // pitch
    text = ""
    for position in range(0, len(columns), every):
        text = text.ljust(position * pitch) + str(columns[position][0])
    return text


def _role_line(grid: Grid, role: str, columns: Iterable[Sequence[int]], label: int, pitch: int) -> Text:
    line = _named(role, label)
    for column in columns:
        shades = [grid.cells[layer, role] for layer in column if (layer, role) in grid.cells]
        symbol, colour = (SYMBOLS[max(shades)], COLOURS[max(shades)]) if shades else (" ", "")
        line.append(symbol.ljust(pitch), style=colour)
    line.rstrip()
    return line


def _named(role: str, label: int) -> Text:
    return Text(f"{shortened(printable(role), label).ljust(label)}  ")


def _outside(grid: Grid) -> dict[str, Shade]:
    """What belongs to no layer, in the order of the model; where there is too much of it, the worst."""
    chosen = sorted(grid.outside, key=lambda role: -grid.outside[role])[:ROWS]
    return {role: shade for role, shade in grid.outside.items() if role in chosen}


def _legend(maps: Sequence[Grid], width: int) -> list[Text]:
    used = {shade for grid in maps for shade in (*grid.cells.values(), *grid.outside.values())}
    # The words of one step build on those of the step before.
    if used & {Shade.FAR_OVER, Shade.BEYOND}:
        used |= {Shade.OVER, Shade.FAR_OVER}
    lines = [Text()]
    for shade in sorted(used):
        entry = f"{SYMBOLS[shade]} {MEANINGS[shade]}"
        if len(lines[-1]) and len(lines[-1]) + len(entry) + 3 > width:
            lines.append(Text())
        lines[-1].append("   " if len(lines[-1]) else "").append(SYMBOLS[shade], style=COLOURS[shade])
        lines[-1].append(f" {MEANINGS[shade]}")
    return lines
