"""Memory: that of one step, and a few kilobytes for each step, however long the run."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pyarrow as pa

from ckptaudit.measurement.jobs import Unit
from ckptaudit.measurement.rollouts import measure_rollouts
from ckptaudit.rollouts.quantities import metrics
from ckptaudit.rollouts.run_log import RunLog
from tests.rollouts.judged import FACTS
from tests.rollouts.simulated import rollouts_of, run_rows, table_of

A_STEP = 10_000
"""Bytes for each further step, all metrics together: some 50 for each metric, and what metrics of the run need."""


def log_of(steps: int) -> RunLog:
    """One step's rows over and over, made when they are asked for."""
    table = table_of(run_rows(steps=1, groups=5, length=12))
    (batch,) = table.combine_chunks().to_batches()
    place = batch.schema.get_field_index("step")

    def opened(columns: Iterable[str]) -> Iterator[pa.RecordBatch]:
        for step in range(steps):
            yield batch.set_column(place, batch.schema.field(place), pa.array([step] * batch.num_rows, pa.int64()))

    return RunLog("made", replace(rollouts_of(table), open=opened), FACTS)


def peak(steps: int) -> int:
    """Bytes at the most while every metric of such a log is measured."""
    log = log_of(steps)
    gc.collect()
    tracemalloc.start()
    rows = measure_rollouts(log, list(metrics()), Unit("made", "rollouts", "rollouts"))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(1 for m in rows if m.metric == "mismatch_k3" and m.series for _ in m.series) == steps
    return most


def test_memory_does_not_grow_with_the_rows_of_a_run() -> None:
    peak(5)  # what is loaded and cached on first use
    # By the hundredth step the bounded number of names and remarks is reached.
    short, long = peak(100), peak(200)
    assert long - short < 100 * A_STEP
