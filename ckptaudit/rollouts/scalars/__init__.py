"""A run's curves, from whatever store the trainer wrote them to, under one set of names.

Every module of this folder with `recognises` and `rows` is a store. Rows are (name, step, value); the last value
logged for a name and step counts. NaN is kept.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple, Protocol, cast

from ckptaudit.errors import RolloutError, printable
from ckptaudit.rollouts.scalars.names import canonical_name, rank

MAX_VALUES = 20_000_000


class ScalarRow(NamedTuple):
    """One logged value under the trainer's own name."""

    name: str
    step: int
    value: float


class Store(Protocol):
    """What a module of this folder offers."""

    NAME: str
    FILES: str

    def recognises(self, path: Path) -> bool:
        """Whether the folder or file is of this kind."""

    def files(self, path: Path) -> list[Path]:
        """The files that are read, in order."""

    def rows(self, path: Path) -> Iterator[ScalarRow]:
        """All values in the order logged. Raises RolloutError."""


@cache
def stores() -> tuple[Store, ...]:
    """Every store of the folder, in order of names."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return tuple(cast(Store, module) for module in modules if hasattr(module, "recognises"))


def read_scalars(path: str | Path) -> dict[str, dict[int, float]]:
    """Curves by canonical name, then by step. Raises RolloutError if no store knows the path, or it is damaged."""
    folder = Path(path)
    return curves(_store_of(folder).rows(folder), folder)


def scalar_files(path: str | Path) -> list[Path]:
    """The files of curves that are read, of all that may lie beside them. Raises RolloutError as `read_scalars`."""
    return _store_of(Path(path)).files(Path(path))


def _store_of(folder: Path) -> Store:
    if not folder.exists():
        raise RolloutError(f"{printable(folder)}: no such folder or file of scalars.")
    store = next((store for store in stores() if store.recognises(folder)), None)
    if store is None:
        known = "; ".join(f"{store.NAME} ({store.FILES})" for store in stores())
        raise RolloutError(f"{printable(folder)}: no scalars that are known: {known}.")
    return store


def curves(rows: Iterable[ScalarRow], source: Path) -> dict[str, dict[int, float]]:
    """Rows under their canonical names; those without one are left out. Raises RolloutError for what no step is."""
    found: dict[str, dict[int, float]] = {}
    ranks: dict[str, dict[int, int]] = {}
    for count, row in enumerate(rows):
        if count >= MAX_VALUES:
            raise RolloutError(f"more than {MAX_VALUES:,} logged scalars; pass the log of one run.")
        name = canonical_name(row.name)
        if name is not None:
            if abs(row.step) >= 2**63:
                raise RolloutError(
                    f"{printable(source)}: {name} has a step of more than 63 bits; the file is damaged."
                )
            of_name, here = ranks.setdefault(name, {}), rank(row.name)
            if here <= of_name.get(row.step, here):  # as verl's score, and its reward less a penalty
                of_name[row.step] = here
                found.setdefault(name, {})[row.step] = row.value
    return found


def merged(stores_read: Iterable[Mapping[str, Mapping[int, float]]]) -> dict[str, dict[int, float]]:
    """Curves of several paths as one; where two have the same step, the later path counts."""
    together: dict[str, dict[int, float]] = {}
    for read in stores_read:
        for name, curve in read.items():
            together.setdefault(name, {}).update(curve)
    return together
