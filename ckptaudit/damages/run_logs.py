"""A run's log with a damage done to it, in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pyarrow as pa

from ckptaudit.damages.curves import CURVE_DAMAGES
from ckptaudit.damages.rollouts import DAMAGES
from ckptaudit.rollouts.run_log import RunLog
from ckptaudit.rollouts.table import SCHEMA


def damaged_log(log: RunLog, damage: str) -> RunLog:
    """The log after a damage to its rollouts or its curves. Reads all of it. Raises RolloutError.

    A damage works on the canonical table, with every column; those that the log lacks are null, and stay unknown.
    """
    if damage in CURVE_DAMAGES:
        return replace(log, curves=CURVE_DAMAGES[damage](log.curves))
    there = [name for name in SCHEMA.names if name in log.table.columns or not SCHEMA.field(name).nullable]
    batches = [batch.select([n for n in there if n in batch.schema.names]) for batch in log.table.open(there)]
    table = DAMAGES[damage](_with_every_column(pa.Table.from_batches(batches)))
    filled = frozenset(name for name in table.schema.names if table.column(name).null_count < table.num_rows)

    def opened(columns: Iterable[str]) -> Iterator[pa.RecordBatch]:
        wanted = {*columns, *(name for name in SCHEMA.names if not SCHEMA.field(name).nullable)}
        return iter(table.select([n for n in table.schema.names if n in filled & wanted]).to_batches())

    return replace(log, table=replace(log.table, columns=filled, open=opened))


def _with_every_column(table: pa.Table) -> pa.Table:
    columns = [
        table.column(field.name).cast(field.type)
        if field.name in table.schema.names
        else pa.nulls(table.num_rows, field.type)
        for field in SCHEMA
    ]
    return pa.table(columns, schema=SCHEMA)
