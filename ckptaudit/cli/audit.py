"""`ckptaudit audit`: the pytest command under another name."""

from __future__ import annotations

import os
import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import Any

from ckptaudit.cli.pytest_words import is_audit, settled

HELP = "run the audit: takes every option of pytest, --base and --tuned, or --audit-rollouts, first"


def run(arguments: list[str]) -> int:
    """Hand everything to pytest; returns its exit code."""
    if "-h" in arguments or "--help" in arguments:
        print("usage: ckptaudit audit --base PATH --tuned PATH [any pytest option]")
        print("       ckptaudit audit --audit-rollouts PATH [any pytest option]")
        return 0
    words = settled(arguments, Path.cwd())
    if not is_audit(words):
        print(
            "ERROR: an audit needs two checkpoints or a log; give --base PATH and --tuned PATH, or "
            "--audit-rollouts PATH.",
            file=sys.stderr,
        )
        return 4
    words = [*_settings_of_here(words), *words]
    # A process of its own: pytest rewrites this package's modules as it imports them, so none may be
    # loaded yet. -P keeps the current folder off the import path, as the pytest command does.
    return subprocess.call([sys.executable, "-P", "-m", "pytest", *words])


def _settings_of_here(words: list[str]) -> list[str]:
    """Root and settings that pytest finds from the current folder alone, so that no word has a say in them."""
    if any(word.startswith(("-c", "--config-file", "--rootdir")) for word in words):
        return []
    try:
        from _pytest.config.findpaths import determine_setup

        asked: dict[str, Any] = {"inifile": None, "override_ini": None, "args": [], "rootdir_cmd_arg": None}
        asked["invocation_dir"] = Path.cwd()
        # Older releases take no override_ini.
        taken = signature(determine_setup).parameters.keys()
        found = determine_setup(**{name: value for name, value in asked.items() if name in taken})
    except (ImportError, TypeError):  # a release whose inside looks different finds them by itself
        return []
    return [f"--rootdir={found[0]}", f"--config-file={found[1] or os.devnull}"]
