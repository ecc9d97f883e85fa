"""Settles the words of a pytest command before pytest sees them; does nothing in any other process.

`ckptaudit_startup.pth` loads this when Python starts with an option of the audit. It has to be that early: pytest
imports what a pytest.ini beside one of its words names before it loads any plugin.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path


def settle() -> None:
    """Join the values of the audit's options to them, in `sys.argv` and in PYTEST_ADDOPTS."""
    # What stands before the arguments: the interpreter, its options, and the program or `-m pytest`.
    given = list(getattr(sys, "orig_argv", []))
    words = given[: len(given) - len(sys.argv[1:])]
    if not any(Path(word).name in ("pytest", "py.test", "pytest.exe") for word in words):
        return
    from ckptaudit.cli.pytest_words import joined, settled

    sys.argv[1:] = settled(sys.argv[1:], Path.cwd())
    added = os.environ.get("PYTEST_ADDOPTS", "")
    if added:
        os.environ["PYTEST_ADDOPTS"] = shlex.join(joined(shlex.split(added)))
    # pytest rewrites the assertions of plugins as it imports them, and warns about what was imported before.
    for name in [name for name in sys.modules if name.partition(".")[0] == "ckptaudit"]:
        del sys.modules[name]


try:
    settle()
except Exception as error:  # nothing here may keep Python from starting
    print(f"ckptaudit: the command line could not be settled ({type(error).__name__}).", file=sys.stderr)
