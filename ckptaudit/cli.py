"""The `ckptaudit` program: inspect a checkpoint, list the checks, run an audit."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ckptaudit import __version__
from ckptaudit.errors import CkptAuditError, printable

CANNOT_BE_JUDGED = 4
"""pytest's exit code for a request it cannot act on; every command here uses it alike."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code. Errors end in one line on stderr and code 4."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["audit"]:
        return _audit(given[1:])
    options = _parser().parse_args(given)
    try:
        lines = _inspect(options.path) if options.command == "inspect" else _checks(options.file)
        print("\n".join(lines))
    except CkptAuditError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return CANNOT_BE_JUDGED
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        """Exit as pytest does on wrong usage, not with argparse's 2."""
        print(f"ERROR: {printable(message)}; see {self.prog} --help.", file=sys.stderr)
        sys.exit(CANNOT_BE_JUDGED)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ckptaudit", description="Audit model checkpoints against the base they came from.")
    parser.add_argument("--version", action="version", version=f"ckptaudit {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    inspect = commands.add_parser("inspect", help="print what a checkpoint holds")
    inspect.add_argument("path", help="a checkpoint directory or file")
    checks = commands.add_parser("checks", help="list the checks with their limits and sources")
    checks.add_argument("file", nargs="*", type=Path, help="check files; default: the bundled ones")
    commands.add_parser("audit", help="run the audit: takes every option of pytest, --base and --tuned first")
    return parser


def _audit(arguments: list[str]) -> int:
    if "-h" in arguments or "--help" in arguments:
        print("usage: ckptaudit audit --base PATH --tuned PATH [any pytest option]")
        return 0
    joined = list(_joined(arguments))
    if not any(a.startswith(("--base=", "--tuned=")) for a in joined):
        print("ERROR: an audit needs two checkpoints; give --base PATH and --tuned PATH.", file=sys.stderr)
        return CANNOT_BE_JUDGED
    # A process of its own: pytest rewrites this package's modules as it imports them, so none may be
    # loaded yet. -P keeps the current folder off the import path, as the pytest command does.
    return subprocess.call([sys.executable, "-P", "-m", "pytest", *joined])


def _joined(arguments: list[str]) -> Iterator[str]:
    """`--base X` as `--base=X`, so that pytest does not take X for a place to look for its settings."""
    rest = iter(arguments)
    for argument in rest:
        yield f"{argument}={next(rest, '')}" if argument in ("--base", "--tuned") else argument


def _inspect(path: str) -> list[str]:
    from ckptaudit.checkpoints import open_checkpoint
    from ckptaudit.naming import Naming

    checkpoint = open_checkpoint(path)
    handles = checkpoint.tensors.values()
    naming = Naming(checkpoint.config)
    places = {name: naming.place(name) for name in checkpoint.tensors}
    layers = {p.subject for p in places.values() if p.layer is not None}
    dtypes = Counter(h.dtype for h in handles)
    roles = Counter(p.role for p in places.values())
    lines = [
        f"{printable(checkpoint.path)}: {checkpoint.format}",
        f"tensors     {len(checkpoint.tensors):,}",
        f"parameters  {checkpoint.parameters:,}",
        f"layers      {len(layers)}",
        f"dtypes      {', '.join(f'{name} ({count})' for name, count in dtypes.most_common())}",
        f"roles       {', '.join(f'{printable(name)} ({count})' for name, count in roles.most_common())}",
        "",
    ]
    rows: list[tuple[str, ...]] = [("tensor", "shape", "dtype", "subject", "role")]
    for name, handle in checkpoint.tensors.items():
        where = places[name]
        rows.append(
            (
                printable(name),
                str(list(handle.shape)),
                handle.dtype,
                printable(where.subject),
                printable(where.role),
            )
        )
    return lines + _columns(rows)


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    # A name of a million letters must not pad every other row to its length.
    widths = [min(72, max(map(len, column))) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _checks(files: Sequence[Path]) -> list[str]:
    from ckptaudit.checks import load_checks
    from ckptaudit.policy import bundled_check_files

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
