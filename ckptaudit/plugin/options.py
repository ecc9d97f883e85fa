"""The options of the gate, one function for each group of them. Light: every pytest run loads this."""

from __future__ import annotations

import pytest

from ckptaudit.inputs import INPUTS
from ckptaudit.policy import DEFAULT_PROFILE, PROFILES


def add_options(parser: pytest.Parser) -> None:
    """Declare all of them."""
    group = parser.getgroup("ckptaudit", "checkpoint audit")
    for add in (_pair, _checks, _inputs, _computing, _reports):
        add(group)


def _pair(group: pytest.OptionGroup) -> None:
    group.addoption("--base", metavar="PATH", help="checkpoint that the run started from")
    group.addoption("--tuned", metavar="PATH", action="append", help="checkpoint to judge; repeat for several runs")


def _checks(group: pytest.OptionGroup) -> None:
    group.addoption(
        "--audit-profile",
        metavar="NAME",
        default=DEFAULT_PROFILE,
        help=f"bundled checks to run: {', '.join(PROFILES)} (default: {DEFAULT_PROFILE})",
    )


def _inputs(group: pytest.OptionGroup) -> None:
    for kind in INPUTS.values():
        group.addoption(kind.option, metavar=kind.metavar, help=f"{kind.help}; for the checks that need it")


def _computing(group: pytest.OptionGroup) -> None:
    group.addoption(
        "--audit-device", metavar="DEVICE", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)"
    )
    group.addoption("--audit-exact", action="store_true", help="compute every number, settle nothing by a bound")


def _reports(group: pytest.OptionGroup) -> None:
    group.addoption("--audit-json", metavar="FILE", help="write every measurement and verdict as JSON")
