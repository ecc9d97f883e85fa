"""`ckptaudit inspect`: what a checkpoint holds, read off its headers."""

from __future__ import annotations

import argparse
from collections import Counter

from ckptaudit.cli.output import show_all
from ckptaudit.errors import printable

HELP = "print what a checkpoint holds"


def arguments(parser: argparse.ArgumentParser) -> None:
    """A path."""
    parser.add_argument("path", help="a checkpoint directory or file")


def run(options: argparse.Namespace) -> int:
    """Print totals and a row for each tensor. Raises CkptAuditError."""
    show_all(_lines(options.path))
    return 0


def _lines(path: str) -> list[str]:
    from ckptaudit.checkpoints import open_checkpoint
    from ckptaudit.naming import Naming

    checkpoint = open_checkpoint(path)
    handles = checkpoint.tensors.values()
    naming = Naming(checkpoint.config, checkpoint.tensors)
    places = {name: naming.place(name) for name in checkpoint.tensors}
    layers = {p.subject for p in places.values() if p.layer is not None}
    dtypes = Counter(h.dtype for h in handles)
    roles = Counter(p.role for p in places.values())
    unknown = naming.unknown({name: handle.shape for name, handle in checkpoint.tensors.items()})
    lines = [
        f"{printable(checkpoint.path)}: {checkpoint.format}",
        f"family      {printable(naming.family)}",
        f"tensors     {len(checkpoint.tensors):,}",
        f"parameters  {checkpoint.parameters:,}",
        f"layers      {len(layers)}",
        f"dtypes      {', '.join(f'{name} ({count})' for name, count in dtypes.most_common())}",
        f"roles       {', '.join(f'{printable(name)} ({count})' for name, count in roles.most_common())}",
        f"unknown     {', '.join(map(printable, unknown)) or 'none: a rule names every role'}",
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
