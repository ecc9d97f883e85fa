"""One shard measured into its part file."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from ckptaudit.measurement.shard_plan import VERSION
from ckptaudit.measurement.shards import PlannedWork, Shard

Progress = Callable[[int, int], None]

NUMERICAL = ("torch", "numpy", "scipy")
"""Packages whose versions decide how numbers are rounded."""


def measure_shard(work: PlannedWork, shard: Shard, path: Path, progress: Progress | None = None) -> int:
    """Measure a shard and write its part; returns the number of measurements. Raises ShardError."""
    from ckptaudit.measurement.parts import PartHead, PartRow, write_part

    started = time.monotonic()
    positions = work.share(shard)
    rows: list[PartRow] = []
    for done, (position, found) in enumerate(work.measure(positions), 1):
        rows += (PartRow(position, at, m) for at, unit in enumerate(found) for m in unit.rows)
        if progress is not None:
            progress(done, len(positions))
    head = PartHead(
        plan=work.plan.digest,
        version=VERSION,
        shard=shard,
        rows=len(rows),
        device=str(work.computing.device),
        seconds=round(time.monotonic() - started, 3),
        versions={name: version(name) for name in NUMERICAL},
    )
    write_part(path, head, sorted(rows, key=lambda row: row.task))
    return len(rows)
