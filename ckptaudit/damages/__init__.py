"""Named damages that a check must notice, one file for each kind of evidence."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec

EVIDENCE = {"matrix": "weights", "group": "weights", "pair": "weights", "runs": "runs"}
"""The file of damages for a metric's scope, where it is not named like the scope."""


def damages_of(scope: str) -> Mapping[str, str]:
    """The damages that may break a check of this scope, by name, with what each does."""
    name = f"{__name__}.{EVIDENCE.get(scope, scope)}"
    if find_spec(name) is None:
        return {}
    descriptions: Mapping[str, str] = import_module(name).DESCRIPTIONS
    return descriptions
