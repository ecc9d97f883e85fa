"""How pytest's users write the parameters that library errors name."""

from __future__ import annotations

PLAIN = ("base", "tuned")


def option(name: str) -> str:
    """`--base`, `--tuned`, and `--audit-NAME` for all others."""
    return f"--{name}" if name in PLAIN else f"--audit-{name.replace('_', '-')}"
