"""Which names a model may give its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ckptaudit.checkpoints.json_files import clipped
from ckptaudit.errors import CheckpointError, printable

MAX_NAME = 1000
MAX_PARTS = 64

_PLAIN = re.compile(r"[A-Za-z0-9_.\-]+")


def refuse_strange_names(place: object, names: Iterable[str]) -> None:
    """Raises CheckpointError for a name that no model gives.

    Names end up in terminals, XML and web pages, and no real one needs what would be markup or control there.
    Length and number of parts are bounded because names are looked up by each of their ends.
    """
    for name in names:
        if not 0 < len(name) <= MAX_NAME or name.count(".") >= MAX_PARTS or _is_strange(name):
            raise CheckpointError(
                f"{printable(place)}: '{clipped(name)}' is no name that a model gives a tensor; the file is "
                "damaged or hostile."
            )


def _is_strange(name: str) -> bool:
    if _PLAIN.fullmatch(name):
        return False
    return printable(name) != name or any(c in name for c in "<>&\"'")
