"""Named damages that a check must notice, a file or two for each kind of evidence."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec

EVIDENCE = {
    **dict.fromkeys(("matrix", "group", "pair", "plan", "run"), ("weights", "roles", "stale")),
    "parity": ("weights", "roles", "parity"),
    "runs": ("runs",),
    "probes": ("behavior", "verdicts"),
}
"""The files of damages for a metric's scope, where there is none of the scope's name."""


def damages_of(scope: str) -> Mapping[str, str]:
    """The damages that may break a check of this scope, by name, with what each does.

    None are known of rollouts where pyarrow is not installed: checks of them can be read there all the same.
    """
    names = [f"{__name__}.{file}" for file in EVIDENCE.get(scope, (scope,))]
    if scope == "rollouts" and find_spec("pyarrow") is None:
        return {}
    modules = [import_module(name) for name in names if find_spec(name) is not None]
    return {damage: text for module in modules for damage, text in module.DESCRIPTIONS.items()}
