"""`ckptaudit plan`: what an audit is to measure, as a file that many machines can share out among them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ckptaudit.cli.output import show_all
from ckptaudit.errors import ShardError, parameter

if TYPE_CHECKING:
    from ckptaudit.foreign_files.outputs import Output
    from ckptaudit.measurement.shard_plan import ShardPlan

HELP = "write down what an audit will measure, in shares for several machines: takes the gate's options"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The gate's options but for reports, check files, and where to write."""
    from ckptaudit.cli.gate_options import add_request
    from ckptaudit.cli.gate_request import ArgumentGroup

    add_request(ArgumentGroup(parser))
    parser.add_argument("checks", nargs="*", metavar="CHECKS", help="check files in place of a profile's")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="JSON file to write")


def run(options: argparse.Namespace) -> int:
    """Open, plan and write; nothing but headers is read. Raises CkptAuditError."""
    if not options.base or not options.tuned:
        missing = "base" if not options.base else "tuned"
        raise ShardError(f"weights are what is measured in shares; {parameter(missing)} PATH is missing.")
    from ckptaudit.foreign_files.outputs import Output, refuse_unwritable

    output = Output(options.output, "--output")
    refuse_unwritable([output])
    # Imported late: these pull in torch. What is made in here lives as long as the process.
    from ckptaudit.cli.loading import without_garbage_collection

    with without_garbage_collection():
        plan = _planned(options, output)
        from ckptaudit.measurement.shard_plan import write_plan

        write_plan(plan, options.output)
    show_all(_lines(plan, options.output))
    return 0


def _planned(options: argparse.Namespace, output: Output) -> ShardPlan:
    from ckptaudit.cli.gate_request import audit_options, config_at, config_path, named_checks, value_of
    from ckptaudit.cli.gate_settings import refuse_beside_weights, refuse_within_logs
    from ckptaudit.foreign_files.outputs import refuse_what_is_read
    from ckptaudit.pipeline.api import prepare
    from ckptaudit.pipeline.shard_plans import shard_plan

    checks, path = named_checks(options.checks), config_path(options.audit_config)
    prepared = prepare(audit_options(value_of(options), complete=not checks), config_at(path), checks)
    refuse_what_is_read([output], [*prepared.opened.places, *checks, *([] if path is None else [path])])
    found = [path] if path is not None and not options.audit_config else []
    refuse_beside_weights(found, prepared.opened.everything)
    refuse_within_logs(found, prepared.opened.options.logs[0])
    return shard_plan(
        prepared.opened,
        prepared.plan,
        config="" if path is None else str(path.absolute()),
        checks=[str(check.absolute()) for check in checks],
    )


def _lines(plan: ShardPlan, path: Path) -> list[str]:
    from ckptaudit.errors import printable

    tensors = sum(len(task.tensors) for task in plan.tasks)
    most = max((task.cost for task in plan.tasks), default=0.0)
    even = int(plan.cost / most) if most else 1
    return [
        f"{printable(path)}: {tensors:,} tensors in {len(plan.tasks):,} tasks, digest {plan.digest}",
        f"about {_duration(plan.cost)} of one core where the base is new, the longest task {_duration(most)}; even "
        f"shares for up to {max(1, even):,} shards",
    ]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
