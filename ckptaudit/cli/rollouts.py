"""`ckptaudit rollouts`: what a trainer logged, and the same as one table."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ckptaudit.cli.output import show, show_all
from ckptaudit.errors import printable

if TYPE_CHECKING:
    from ckptaudit.rollouts.facts import RunFacts
    from ckptaudit.rollouts.measure import Rollouts

HELP = "look into the rollouts that a trainer logged, or convert them to one Parquet table"
CONFIG = "ckptaudit.toml"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, with which log."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    inspect = commands.add_parser(
        "inspect", help="print trainer, steps, samples, columns and what cannot be measured"
    )
    inspect.add_argument(
        "--scalars", action="append", default=[], metavar="PATH", help="the run's curves, repeatable"
    )
    convert = commands.add_parser("convert", help="write the log as the canonical table")
    convert.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="Parquet file to write")
    for command in (inspect, convert):
        command.add_argument("path", help="the folder that the trainer logged to, or a file of it")
        command.add_argument(
            "--config",
            type=Path,
            metavar="FILE",
            help=f"a file with a table [rollouts] (default: {CONFIG} if there)",
        )


def run(options: argparse.Namespace) -> int:
    """Do it. Raises CkptAuditError."""
    from ckptaudit.rollouts.readers import open_rollouts

    facts = _facts(options.config)
    table = open_rollouts(options.path, facts)
    if options.action == "convert":
        return _convert(table, options.path, options.output)
    show_all(_lines(table, options.path, options.scalars))
    return 0


def _facts(config: Path | None) -> RunFacts:
    from ckptaudit.rollouts.facts import RunFacts, read_facts

    if config is None and not Path(CONFIG).is_file():
        return RunFacts()
    return read_facts(config or Path(CONFIG))


def _convert(table: Rollouts, source: str, output: Path) -> int:
    from ckptaudit.foreign_files.outputs import Output, refuse_unwritable, refuse_what_is_read
    from ckptaudit.rollouts.table import SCHEMA, write_table

    outputs = [Output(output, "--output")]
    refuse_unwritable(outputs)
    refuse_what_is_read(outputs, [Path(source)])
    rows = write_table(output, table.open(SCHEMA.names))
    show(f"{printable(output)}: {rows:,} samples of {table.trainer} with {len(table.columns)} columns")
    return 0


def _lines(table: Rollouts, path: str, scalars: list[str]) -> Iterator[str]:
    from ckptaudit.rollouts.measure import not_measurable
    from ckptaudit.rollouts.quantities import metrics
    from ckptaudit.rollouts.scalars import merged, read_scalars

    curves = merged(read_scalars(one) for one in scalars)
    lacking = not_measurable(table, curves)
    yield f"{printable(path)}: rollouts of {table.trainer}"
    yield from _extent(table)
    yield f"columns     {', '.join(sorted(table.columns))}"
    if curves:
        yield f"curves      {', '.join(sorted(curves))}"
    yield f"metrics     {len(metrics()) - sum(map(len, lacking.values()))} of {len(metrics())} can be measured"
    for reason, names in lacking.items():
        yield from ("", reason, f"  not measured: {', '.join(names)}")


def _extent(table: Rollouts) -> Iterator[str]:
    steps: dict[str, set[int]] = {}
    samples: dict[str, int] = {}
    for batch in table.open(()):
        splits, numbers = batch.column("split").to_pylist(), batch.column("step").to_pylist()
        for split, step in zip(splits, numbers, strict=True):
            steps.setdefault(split, set()).add(step)
            samples[split] = samples.get(split, 0) + 1
    for split in sorted(steps):
        first, last = min(steps[split]), max(steps[split])
        count = len(steps[split])
        said = f"{count:,} step{'s' * (count != 1)} from {first} to {last}"
        yield f"{printable(split):10}  {said}, {samples[split]:,} samples"
