"""The house: one room per stage, a dozen floors at most, and no way back from a floor to one above it."""

from __future__ import annotations

from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

import ckptaudit

PACKAGE = "ckptaudit"
MOST_ROOMS = 27
MOST_FLOORS = 12

Rooms = dict[str, set[str]]


@pytest.fixture(scope="module")
def rooms() -> Rooms:
    """By room, a module or package right below the package, the rooms that it imports."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    found: Rooms = {}
    for module in graph.modules - {PACKAGE}:
        imported = {_room(m) for m in graph.find_modules_directly_imported_by(module)}
        found.setdefault(_room(module), set()).update(imported - {"", _room(module)})
    return found


def _room(module: str) -> str:
    return f"{module}.".split(".")[1]


def test_there_are_no_more_rooms_than_a_page_can_list(rooms: Rooms) -> None:
    there = {path.stem for path in Path(ckptaudit.__file__).parent.iterdir() if _holds_code(path)} - {"__init__"}
    assert rooms.keys() == there, "the import graph lacks a room, or invents one"
    assert len(rooms) <= MOST_ROOMS, sorted(rooms)


def _holds_code(path: Path) -> bool:
    return path.suffix == ".py" or (path / "__init__.py").is_file()


def test_no_room_leads_back_to_itself(rooms: Rooms) -> None:
    # A circle raises CycleError, which names it.
    order = list(TopologicalSorter(rooms).static_order())
    assert set(order) == rooms.keys()


def test_there_are_no_more_floors_than_a_dozen(rooms: Rooms) -> None:
    floor: dict[str, int] = {}
    for room in TopologicalSorter(rooms).static_order():
        floor[room] = 1 + max((floor[below] for below in rooms[room]), default=0)
    assert max(floor.values()) <= MOST_FLOORS, sorted(floor.items(), key=lambda item: item[1])
