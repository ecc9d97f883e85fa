"""What a model of hundreds of gigabytes takes: `python -m benchmarks.scale FOLDER [--measure]`.

Plans the pair that benchmarks.giant writes below FOLDER (41 MB of headers), tells how evenly it is cut, and adds up
the predicted work, first time and with a filled cache.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.giant import Giant, write

COUNTS = (2, 8, 64, 256)


def main(folder: Path) -> None:
    """Print the figures of docs/scale.md."""
    for side in ("base", "tuned"):
        if not (folder / side).is_dir():
            print(f"{side}: {write(Giant(), folder / side):,} bytes")
    print("\n".join(_lines(folder)))


def _lines(folder: Path) -> Iterator[str]:
    from ckptaudit.judging.config import Config
    from ckptaudit.measurement.cost import large_cost
    from ckptaudit.measurement.shards import cut
    from ckptaudit.options import AuditOptions
    from ckptaudit.pipeline.api import prepare
    from ckptaudit.pipeline.shard_plans import shard_plan

    started, wall = time.process_time(), time.perf_counter()
    options = AuditOptions(base=str(folder / "base"), tuned=(str(folder / "tuned"),), cache="off")
    prepared = prepare(options, Config())
    plan = shard_plan(prepared.opened, prepared.plan)
    used, passed = time.process_time() - started, time.perf_counter() - wall
    yield f"planned in {used:.1f} s of one core, {passed:.1f} s by the clock: {len(plan.tasks):,} tasks"
    costs = [task.cost for task in plan.tasks]
    for count in COUNTS:
        started = time.process_time()
        sums = [sum(costs[p] for p in share) for share in cut(costs, count)]
        mean = plan.cost / count
        yield (
            f"{count} shards, cut in {time.process_time() - started:.2f} s: {min(sums) / mean:.4f} to "
            f"{max(sums) / mean:.4f} of the mean, {mean / 3600:.2f} hours of one core each"
        )
    matrices = [t for t in prepared.opened.runs[0].pair.aligned if t.is_matrix]
    cached = sum(large_cost(*t.matrix_shape[1:], cached=True) for t in matrices)
    yield f"first time {plan.cost / 3600:.1f} hours of one core, cached {cached / 3600:.1f} hours"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
