"""`ckptaudit measure`: one share of a planned audit, on whatever machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from ckptaudit.cli.output import show
from ckptaudit.cli.progress import measuring

HELP = "measure one share of a plan and write it as a part file"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The plan, which share of how many, and where to write."""
    parser.add_argument("plan", type=Path, help="a file that `ckptaudit plan` wrote")
    parser.add_argument("--shard", required=True, metavar="I/N", help="share I of N, counted from 0")
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="FILE", help="part file to write, in Parquet"
    )


def run(options: argparse.Namespace) -> int:
    """Measure and write. Raises CkptAuditError, also where a side has changed since the plan was made."""
    from ckptaudit.errors import printable
    from ckptaudit.foreign_files.outputs import Output, refuse_unwritable, refuse_what_is_read
    from ckptaudit.measurement.shard_plan import read_plan
    from ckptaudit.measurement.shards import parse_shard
    from ckptaudit.pipeline.shard_plans import folder_of, open_planned, planned_places
    from ckptaudit.pipeline.shards import measure_shard

    shard, plan, output = parse_shard(options.shard), read_plan(options.plan), options.output.absolute()
    outputs = [Output(options.output, "--output")]
    refuse_unwritable(outputs)
    refuse_what_is_read(outputs, [options.plan, *planned_places(plan)])
    with folder_of(plan):
        work = open_planned(plan)
        with measuring() as watch:
            rows = measure_shard(work, shard, output, watch)
    show(f"{printable(options.output)}: shard {shard}, {len(work.share(shard)):,} tasks, {rows:,} measurements")
    return 0
