"""`ckptaudit audit`: the pytest command under another name."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import Any

from ckptaudit.cli.pytest_words import is_audit, settled

HELP = "run the audit: takes every option of pytest, --base and --tuned, or --audit-rollouts, first"


USAGE = """ckptaudit audit --base PATH --tuned PATH [any pytest option]
       ckptaudit audit --audit-rollouts PATH [any pytest option]"""

PYTEST = (
    ("-k EXPRESSION", "the verdicts whose names match, such as 'spectral-drift and layers.3'"),
    ("-x", "stop at the first broken claim"),
    ("--lf", "those that failed last"),
    ("-n N", "spread over processes; needs ckptaudit[xdist]"),
    ("-v, -q, -qq", "tell more, tell less, tell the answer alone"),
    ("--tb STYLE", "auto: a block for each broken check; line: a line for each verdict; no: neither"),
    ("--junitxml FILE", "write JUnit XML"),
    ("--collect-only", "list the verdicts and judge nothing"),
)
"""The options of pytest's own that an audit is used with most."""


def audit_parser() -> argparse.ArgumentParser:
    """The gate's options in their groups, for help and completion; pytest itself takes the words."""
    from ckptaudit.cli.gate_options import add_options
    from ckptaudit.cli.gate_request import ArgumentGroups

    parser = argparse.ArgumentParser(
        prog="ckptaudit audit",
        usage=USAGE,
        description="Audit tuned checkpoints against their base, or the rollouts of a run: pytest by another name.",
        epilog="Exit codes: 0 the gate is open, 1 it is closed, 4 the request cannot be judged. Every option of "
        "pytest is taken: `pytest --help` has the rest.",
    )
    add_options(ArgumentGroups(parser))
    own = parser.add_argument_group("of pytest's own, among others")
    for names, said in PYTEST:
        *flags, last = names.split(", ")
        flag, _, metavar = last.partition(" ")
        words: dict[str, Any] = {"metavar": metavar} if metavar else {"action": "store_true"}
        own.add_argument(*flags, flag, help=said, dest=f"pytest {flag}", **words)
    return parser


def run(arguments: list[str]) -> int:
    """Hand everything to pytest; returns its exit code."""
    if "-h" in arguments or "--help" in arguments:
        print(audit_parser().format_help(), end="")
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
