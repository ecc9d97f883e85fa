"""Columns of a table as NumPy arrays, and tables with a column replaced."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Array = np.ndarray[Any, Any]


def numbers(table: pa.Table, column: str) -> Array:
    """A column of numbers as float64."""
    return np.asarray(table.column(column).cast(pa.float64()).to_numpy())


def lists(table: pa.Table, column: str) -> tuple[Array, Array]:
    """A column of lists, none of them null, as (all entries, number of entries of each row)."""
    column_of_lists = table.column(column).combine_chunks()
    flat = column_of_lists.flatten().to_numpy(zero_copy_only=False).copy()
    sizes = np.asarray(pc.list_value_length(column_of_lists)).astype(np.int64)
    return flat, sizes


def with_lists(table: pa.Table, column: str, flat: Array, sizes: Array) -> pa.Table:
    """The table with other lists in a column, of other lengths if need be."""
    kind = table.schema.field(column).type
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int32)
    values = pa.array(flat, from_pandas=False).cast(kind.value_type, safe=False)
    made = pa.ListArray.from_arrays(pa.array(offsets), values)
    return table.set_column(table.schema.names.index(column), table.schema.field(column), made.cast(kind))


def with_column(table: pa.Table, column: str, values: Any) -> pa.Table:
    """The table with another column, of the type that it had."""
    field = table.schema.field(column)
    if isinstance(values, np.ndarray):
        made = pa.array(values).cast(field.type, safe=False)
    else:
        made = pa.array(values, type=field.type)
    return table.set_column(table.schema.names.index(column), field, made)
