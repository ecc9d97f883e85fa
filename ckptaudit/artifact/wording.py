"""Foreign values in one line of a message: escaped, JSON-like, and of bounded length."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from ckptaudit.checkpoints.json_files import clipped
from ckptaudit.findings import Finding

MAX_FINDINGS = 100
SHOWN = 4


def shown(value: object, depth: int = 2) -> str:
    """A JSON value as a reader of the file would write it; long ones are cut, and say how long they are."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f'"{clipped(value)}"'
    if isinstance(value, list | tuple):
        parts = [shown(v, depth - 1) for v in value[:SHOWN]] if depth else ["..."]
        return f"[{', '.join(parts)}{_rest(len(value))}]"
    if isinstance(value, dict):
        pairs = islice(value.items(), SHOWN)
        parts = [f"{clipped(k)}: {shown(v, depth - 1)}" for k, v in pairs] if depth else ["..."]
        return f"{{{', '.join(parts)}{_rest(len(value))}}}"
    return clipped(value)


def place(file: str, key: str = "") -> str:
    """`config.json:rope_theta`, or the file alone."""
    return f"{clipped(file)}:{clipped(key)}" if key else clipped(file)


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    found = list(names)
    more = f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
    return ", ".join(clipped(name) for name in found[:SHOWN]) + more


def capped(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """At most a hundred findings; the last one then says how many were left out."""
    found = list(findings)
    if len(found) <= MAX_FINDINGS:
        return tuple(found)
    left = len(found) - MAX_FINDINGS + 1
    return (*found[: MAX_FINDINGS - 1], Finding("and more", "more findings of this kind", f"{left:,} are left out"))


def _rest(length: int) -> str:
    return f", ... {length:,} entries" if length > SHOWN else ""
