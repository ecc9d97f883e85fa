"""The base's names for an adapter's tensors, which may have more or fewer leading parts."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable


class EndIndex:
    """Names that can be looked up by how they end."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        # Backwards, all names of one end stand together.
        self._backwards = sorted(name[::-1] for name in self._names)

    def find(self, name: str) -> str | None:
        """The same name, or the only one that differs from it by leading parts."""
        if name in self._names:
            return name
        shorter = [end for end in _ends(name) if end in self._names]
        longer = self._longer(name)
        near = [*shorter, *longer]
        return near[0] if len(near) == 1 else None

    def _longer(self, name: str) -> list[str]:
        """At most two of the names that end in a dot and this one."""
        wanted = f".{name}"[::-1]
        first = bisect_left(self._backwards, wanted)
        return [other[::-1] for other in self._backwards[first : first + 2] if other.startswith(wanted)]


def _ends(name: str) -> Iterable[str]:
    at = name.find(".")
    while at >= 0:
        yield name[at + 1 :]
        at = name.find(".", at + 1)
