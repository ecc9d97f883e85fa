"""Completion of commands and options in a shell, by argcomplete: the extra `completion`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from ckptaudit.cli import audit, plan

ASKED = "_ARGCOMPLETE"
"""What argcomplete's function in the shell sets where it asks a program for words."""


def complete(make: Callable[[], argparse.ArgumentParser]) -> None:
    """Answer the shell and leave, where it asks and the package is there; else nothing.

    The commands whose options take time to declare, as they are the gate's, have them here.
    """
    if ASKED not in os.environ:
        return
    try:
        import argcomplete
    except ModuleNotFoundError:
        return
    parser = make()
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    plan.arguments(commands.choices["plan"])
    for action in audit.audit_parser()._actions:
        if not isinstance(action, argparse._HelpAction):
            commands.choices["audit"]._add_action(action)
    argcomplete.autocomplete(parser)
