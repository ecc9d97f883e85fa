"""`ckptaudit checks`: every check with its limit and source; with `--prove`, broken by its own damage."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ckptaudit.cli.output import show_all
from ckptaudit.cli.spelling import option
from ckptaudit.errors import CheckDefinitionError, printable, spelled
from ckptaudit.options import AUXILIARY

if TYPE_CHECKING:
    from ckptaudit.pipeline.proving import Proof

HELP = "list the checks with their limits and sources, or prove that each can break"

BROKEN_PROOF = 1
"""Exit code where a check holds under its own damage."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Check files, and the pair to prove them on."""
    parser.add_argument("file", nargs="*", type=Path, help="check files; default: the bundled ones")
    parser.add_argument(
        "--prove", action="store_true", help="apply each check's breaks_when to a good pair: it has to break"
    )
    parser.add_argument("--base", metavar="PATH", help="base of the good pair, for --prove")
    parser.add_argument("--tuned", metavar="PATH", action="append", help="tuned side of the good pair; repeatable")
    for kind in AUXILIARY.values():
        parser.add_argument(option("checks", kind.name), metavar=kind.metavar, help=f"{kind.help}, for --prove")


def run(options: argparse.Namespace) -> int:
    """Print the checks, or what proving them showed; 1 where one does not break. Raises CkptAuditError."""
    if not options.prove:
        show_all(_lines(options.file))
        return 0
    if not (options.file and (options.rollouts or (options.base and options.tuned))):
        raise CheckDefinitionError(
            "proving needs check files, and a pair they hold on, --base PATH and --tuned PATH, or --rollouts PATH."
        )
    return _prove(options)


def _prove(options: argparse.Namespace) -> int:
    from ckptaudit.judging.check_files import load_checks
    from ckptaudit.judging.config import Config, find_config, load_config
    from ckptaudit.options import AuditOptions
    from ckptaudit.pipeline import open_audit
    from ckptaudit.pipeline.proving import prove

    path = find_config([Path.cwd()])
    config = load_config(path) if path else Config()
    given = {name: path for name in AUXILIARY if (path := getattr(options, name)) is not None}
    opened = open_audit(
        AuditOptions(base=options.base or "", tuned=tuple(options.tuned or ()), auxiliary=given, complete=False),
        config.facts,
    )
    files = list(map(load_checks, options.file))
    proofs = [prove(opened, check, file, config.probes) for file in files for check in file.checks]
    show_all(line for proof in proofs for line in _proof_lines(proof))
    return 0 if all(proof.breaks or proof.needs for proof in proofs) else BROKEN_PROOF


def _proof_lines(proof: Proof) -> Iterator[str]:
    check = proof.check
    if proof.needs:
        yield f"{check.id}: cannot be tried here: {printable(spelled(proof.needs, partial(option, 'checks')))}"
        return
    failed = [v for v in proof.intact if v.outcome == "failed"]
    if failed:
        yield f"{check.id}: note: already broken on the intact pair, at {printable(failed[0].subject)}"
    if not proof.breaks:
        yield f"{check.id}: NOT BROKEN by {check.breaks_when}: the check holds under its own damage"
        return
    broken = next(v for v in proof.damaged if v.outcome == "failed")
    value = "" if broken.value is None else f", {broken.value:.4g} against {broken.sign} {broken.limit:g}"
    yield f"{check.id}: broken by {check.breaks_when} at {printable(broken.subject)}{value}"


def _lines(files: Sequence[Path]) -> list[str]:
    from ckptaudit.judging.check_files import load_checks
    from ckptaudit.judging.profiles import bundled_check_files

    lines: list[str] = []
    for path in files or bundled_check_files():
        lines.append(f"{printable(path.name)}")
        for check in load_checks(path).checks:
            scope = f"{', '.join(check.roles)} per {check.per}, {check.judge_by.replace('_', ' ')}"
            lines += [
                f"  {check.id}: {check.metric} {check.sign} {check.limit:g}   ({scope})",
                f"      {check.claim}",
                f"      source: {check.source}",
            ]
        lines.append("")
    return lines[:-1]
