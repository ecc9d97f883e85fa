"""The `ckptaudit` program. Importing this costs nothing: commands are loaded when one is run."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    from ckptaudit.cli.program import main

    return main(arguments)
