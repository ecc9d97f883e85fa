"""The `ckptaudit` program. One module for each command: HELP, its arguments, and what it does."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, cast

from ckptaudit import __version__
from ckptaudit.cli import (
    attest,
    audit,
    cache,
    calibrate,
    checks,
    collect,
    collect_parts,
    diff,
    doctor,
    explain,
    init,
    inspect,
    measure,
    plan,
    probes,
    promote,
    report,
    rollouts,
    verify,
)
from ckptaudit.cli.completion import complete
from ckptaudit.cli.extras import bringing
from ckptaudit.cli.output import complain
from ckptaudit.cli.spelling import option
from ckptaudit.errors import CkptAuditError, printable

INTERRUPTED = 130
"""What a shell gives a program that Ctrl-C has ended."""

CANNOT_BE_JUDGED = 4
"""pytest's exit code for a request it cannot act on; every command here uses it alike."""


class Command(Protocol):
    """What a module of this package offers. `run` returns the exit code and may raise CkptAuditError."""

    HELP: str

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's own arguments."""

    def run(self, options: argparse.Namespace) -> int:
        """Do it."""


COMMANDS = {
    "init": init,
    "doctor": doctor,
    "inspect": inspect,
    "checks": checks,
    "explain": explain,
    "calibrate": calibrate,
    "cache": cache,
    "report": report,
    "diff": diff,
    "attest": attest,
    "verify": verify,
    "promote": promote,
    "measure": measure,
    "collect": collect,
    "rollouts": rollouts,
    "probes": probes,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code. Errors end in one line on stderr and code 4.

    Whatever a damaged file makes a reader raise is such an error; `python -X dev -m ckptaudit` shows its traceback.
    """
    complete(_parser)
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["audit"]:
        return _ended("audit", partial(audit.run, given[1:]))
    if given[:1] == ["plan"]:
        return _ended("plan", partial(_parsed, plan, _Parser(prog="ckptaudit plan", description=plan.HELP), given))
    if given[:1] == ["collect"] and collect_parts.is_meant(given[1:]):
        parser = _Parser(prog="ckptaudit collect", description=collect_parts.HELP)
        return _ended("collect-parts", partial(_parsed, collect_parts, parser, given))
    options = _parser().parse_args(given)
    return _ended(options.command, partial(cast(Command, COMMANDS[options.command]).run, options))


def _parsed(command: Command, parser: argparse.ArgumentParser, given: Sequence[str]) -> int:
    """A command whose arguments take time to declare, as they are the gate's, or that shares its name."""
    command.arguments(parser)
    return command.run(parser.parse_args(given[1:]))


def _ended(command: str, run: Callable[[], int]) -> int:
    try:
        return run()
    except CkptAuditError as error:
        complain(f"ERROR: {error.spelled(partial(option, command))}")
        return CANNOT_BE_JUDGED
    except KeyboardInterrupt:
        complain(f"ckptaudit {command.removesuffix('-parts')} was interrupted.")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has seen enough; what is left in the buffer goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        name = command.removesuffix("-parts")
        complain(f"ERROR: ckptaudit {name} {_broke_off(error, name)}")
        return CANNOT_BE_JUDGED


def _broke_off(error: Exception, command: str) -> str:
    """What a command ended with that nobody foresaw; a package that is missing, by the extra that brings it."""
    if isinstance(error, ModuleNotFoundError) and (extra := bringing(error.name or "", command)):
        return f"needs the package {error.name}; pip install 'ckptaudit[{extra}]'."
    return f"broke off ({type(error).__name__}: {printable(error)[:200]}); look for damaged files."


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        """Exit as pytest does on wrong usage, not with argparse's 2."""
        complain(f"ERROR: {message}; see {self.prog} --help.")
        sys.exit(CANNOT_BE_JUDGED)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ckptaudit", description="Audit model checkpoints against the base they came from.")
    parser.add_argument("--version", action="version", version=f"ckptaudit {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        command = cast(Command, module)
        command.arguments(commands.add_parser(name, help=command.HELP))
    commands.add_parser("audit", help=audit.HELP)
    commands.add_parser("plan", help=plan.HELP)
    return parser
