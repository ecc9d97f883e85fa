"""`ckptaudit verify`: does signed evidence of an audit hold for a checkpoint as it is now."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ckptaudit.cli import gate_spelling
from ckptaudit.cli.output import show
from ckptaudit.cli.spelling import option
from ckptaudit.errors import AttestationError, spelled
from ckptaudit.options import AUXILIARY

if TYPE_CHECKING:
    from ckptaudit.results.inputs import InputName

HELP = "verify an attestation: signature, the folder's content now, open gate, coverage"

DOES_NOT_HOLD = 1
INPUTS = cast("tuple[InputName, ...]", (*AUXILIARY, "base_part", "tuned_part", "against", "config", "checks"))
"""Inputs that may lie elsewhere by now."""

OTHERS = {
    "base_part": "what the base was joined with",
    "tuned_part": "what the tuned side was joined with",
    "checks": "a check file",
}
"""What no option of the gate names by itself."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """The attestation, the folder, the key, and what is asked beyond."""
    add = parser.add_argument
    add("attestation", type=Path, help="a file that `ckptaudit attest` wrote")
    add("folder", type=Path, help="the checkpoint")
    add("--key", type=Path, required=True, metavar="FILE", help="public key in PEM")
    add(
        "--min-coverage",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="share of the parameters that a check has to have limited (default: %(default)s)",
    )
    add("--profile", action="append", default=[], metavar="NAME", help="the profile it has to be by; repeatable")
    add("--no-waivers", action="store_true", help="accept no broken claim that was forgiven")
    for name in INPUTS:
        what = OTHERS.get(name, f"what {gate_spelling.option(name)} named")
        add(
            option("verify", name),
            action="append",
            default=[],
            metavar="PATH",
            help=f"where {what} lies now (default: where it lay); repeatable",
        )
    add("--sampled", action="store_true", help="accept an audit tied to the files by a sampled fingerprint")


def run(options: argparse.Namespace) -> int:
    """Print a line for each point; 0 where all hold, else 1. Raises CkptAuditError."""
    from ckptaudit.release.verification import Asked, verified

    if not 0 <= options.min_coverage <= 1:
        raise AttestationError(f"--min-coverage {options.min_coverage:g}: a share between 0 and 1 is required.")
    points = verified(
        Asked(
            attestation=options.attestation,
            folder=options.folder,
            key=options.key,
            min_coverage=options.min_coverage,
            profiles=tuple(options.profile),
            waivers=not options.no_waivers,
            sampled=options.sampled,
            inputs={name: tuple(getattr(options, name)) for name in INPUTS},
        )
    )
    width = max(10, *(len(point.name) for point in points)) + 1
    for point in points:
        said = spelled(point.said, partial(option, "verify"))
        show(f"{'ok' if point.holds else 'FAILED':8}{point.name:{width}}{said}")
    holds = all(point.holds for point in points)
    print("verified" if holds else "NOT verified")
    return 0 if holds else DOES_NOT_HOLD
