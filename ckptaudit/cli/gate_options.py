"""The options of the gate, one function for each group of them. Light: every pytest run loads this."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ckptaudit.cli.gate_spelling import option
from ckptaudit.judging.profiles import default_profile, profiles
from ckptaudit.options import AUXILIARY, DEFAULT_MEMORY, DTYPES, FACTOR, SEVERAL


class OptionGroup(Protocol):
    """Whatever takes options as a group of pytest's does."""

    def addoption(self, *names: str, **words: Any) -> None:
        """Declare an option."""


class OptionParser(Protocol):
    """Whatever makes groups of options as pytest's parser does."""

    def getgroup(self, name: str, description: str, /) -> OptionGroup:
        """A group of options."""


def add_options(parser: OptionParser) -> None:
    """Declare all of them, in groups as help shows them."""
    for name, title, add in _groups():
        add(parser.getgroup(f"ckptaudit-{name}", f"checkpoint audit: {title}"))


def _groups() -> tuple[tuple[str, str, Callable[[OptionGroup], None]], ...]:
    return (
        ("pair", "what is judged", _pair),
        ("checks", "by which checks", _checks),
        ("inputs", "what some checks need beside the pair", _inputs),
        ("computing", "how it is computed", _computing),
        ("reports", "files to write", add_reports),
    )


def add_request(group: OptionGroup) -> None:
    """What is judged, by what, and how it is measured."""
    for add in (_pair, _checks, _inputs, _computing):
        add(group)


def _pair(group: OptionGroup) -> None:
    group.addoption("--base", metavar="PATH", help="checkpoint that the run started from")
    group.addoption(
        "--tuned", metavar="PATH", action="append", help="checkpoint to judge, a pattern, or FOLDER@all; repeatable"
    )
    group.addoption(
        "--audit-several",
        metavar="HOW",
        choices=SEVERAL,
        default="auto",
        help="what several checkpoints are to each other: steps, siblings, apart, or auto: told by their paths",
    )
    group.addoption("--audit-against", metavar="FILE", help="JSON of a released run's audit: do not be much worse")
    group.addoption(
        "--audit-against-factor",
        metavar="FACTOR",
        type=float,
        default=FACTOR,
        help=f"how many times worse than the released run fails (default: {FACTOR:g})",
    )


def _checks(group: OptionGroup) -> None:
    group.addoption(
        "--audit-profile",
        metavar="NAME",
        help=f"bundled checks to run: {', '.join(profiles())} "
        f"(default: the configuration's, else {default_profile()})",
    )
    group.addoption(
        "--audit-config",
        metavar="FILE",
        help="limits and waivers of your own (default: ckptaudit.toml, else [tool.ckptaudit] in pyproject.toml)",
    )
    group.addoption("--audit-debug", action="store_true", help="show tracebacks of what could not be judged")
    group.addoption("--audit-strict", action="store_true", help="checks that only warn close the gate as well")


def _inputs(group: OptionGroup) -> None:
    for kind in AUXILIARY.values():
        said, action = f"{kind.help}; for the checks that need it", "store"
        if kind.layout == "log":
            said, action = f"{kind.help}; with or without a pair; repeatable", "append"
        group.addoption(option(kind.name), metavar=kind.metavar, help=said, action=action)


def _computing(group: OptionGroup) -> None:
    group.addoption(
        "--audit-device", metavar="DEVICE", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)"
    )
    group.addoption(
        "--audit-dtype",
        metavar="DTYPE",
        choices=DTYPES,
        default="float32",
        help=f"precision in which models are run on probes: {', '.join(DTYPES)} (default: float32)",
    )
    group.addoption(
        "--audit-exact", action="store_true", help="compute every number, let no bound stand in for one"
    )
    group.addoption(
        "--audit-workers",
        metavar="N|ray[:ADDRESS]",
        help="processes that measure: N of this machine, or actors of a Ray cluster (default: this process, and "
        "another beside it for a base of 500 matrices or more)",
    )
    group.addoption(
        "--audit-cache",
        metavar="DIR|off",
        help="folder for what was worked out about a base, used again by later runs (default: $CKPTAUDIT_CACHE, "
        "else one in your user cache)",
    )
    group.addoption(
        "--audit-memory",
        metavar="SIZE",
        default=DEFAULT_MEMORY,
        help="memory for a batch of small matrices, such as 512MiB; a large matrix takes several times its own "
        f"size besides (default: {DEFAULT_MEMORY})",
    )


def add_reports(group: OptionGroup) -> None:
    """Files to write."""
    group.addoption(
        "--audit-digest",
        action="store_true",
        help="take the SHA-256 of every file of both sides and of all other inputs, which `ckptaudit attest` "
        "signs; reads all of them once",
    )
    group.addoption("--audit-json", metavar="FILE", help="write every measurement and verdict as JSON")
    group.addoption("--audit-html", metavar="FILE", help="write the audit as one page that opens offline")
    group.addoption("--audit-parquet", metavar="FILE", help="write every measurement as a Parquet table")
    group.addoption(
        "--audit-probe-rows",
        metavar="FILE",
        help="write what both models say of each token of the probes as a Parquet table; of several runs one file "
        "each, numbered",
    )
    group.addoption(
        "--audit-plot",
        metavar="FILE|DIR",
        help="draw each metric over the steps with its limits: one PNG or SVG, or one PNG each in a folder",
    )
