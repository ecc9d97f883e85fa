"""What a column of the canonical table can hold: a damaged one is refused by file, column and row.

A column that a log lacks, or that is null in every row, was not logged; one of another type, or of values that no
sample can have, is damage.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ckptaudit.errors import RolloutError, printable

COUNTS = ("step", "prompt_len", "response_len", "prefix_len")
"""Whole numbers that are never negative."""


def refuse_types(path: Path, stored: pa.Schema, wanted: pa.Schema) -> None:
    """Raise RolloutError for a column whose stored type holds nothing of the kind that the table has there."""
    for field in wanted:
        index = stored.get_field_index(field.name)
        if index >= 0 and not _fits(stored.field(index).type, field.type):
            held = printable(stored.field(index).type)[:80]
            raise RolloutError(
                f"{printable(path)}: column {field.name} holds {held} from row 1 on, and {field.type} belongs "
                "there; the file is damaged or of another version."
            )
        if index < 0 and stored.names.count(field.name) > 1:
            raise RolloutError(f"{printable(path)}: two columns are called {field.name}; keep one.")


def fitted(path: Path, batch: pa.RecordBatch, schema: pa.Schema, before: int) -> pa.RecordBatch:
    """The stored rows with the types of the schema; `before` are the file's rows ahead of them.

    Raises RolloutError naming the file, the column and the first row that cannot be of the table.
    """
    fields = [schema.field(name) for name in batch.schema.names]
    columns = []
    for field, stored in zip(fields, batch.columns, strict=True):
        try:
            columns.append(stored if stored.type == field.type else stored.cast(field.type))
        except pa.ArrowException as error:
            row = next((i for i in range(len(stored)) if not _casts(stored.slice(i, 1), field.type)), 0)
            raise RolloutError(
                f"{printable(path)}: column {field.name} is no {field.type} in row {before + row + 1}; the file is "
                "damaged or of another version."
            ) from error
        if columns[-1].null_count and not field.nullable:
            row = pc.index(columns[-1].is_null(), True).as_py()
            raise RolloutError(
                f"{printable(path)}: column {field.name} is empty in row {before + row + 1}; every row needs one."
            )
    made = pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))
    refuse_values(path, made, before)
    return made


def _casts(stored: pa.Array, kind: pa.DataType) -> bool:
    try:
        stored.cast(kind)
    except pa.ArrowException:
        return False
    return True


def refuse_values(path: Path, batch: pa.RecordBatch, before: int = 0) -> None:
    """Raise RolloutError for values that no sample can have; `before` are the file's rows ahead of these."""
    there = set(batch.schema.names)
    for name in COUNTS:
        if name not in there or not batch.num_rows:
            continue
        column = batch.column(name)
        least = pc.min(column).as_py()
        if least is not None and least < 0:
            row = pc.index(pc.fill_null(pc.less(column, 0), False), True).as_py()
            raise RolloutError(
                f"{printable(path)}: column {name} has {column[row]} in row {before + row + 1}, and cannot be "
                "negative; the file is damaged."
            )
    if {"sample_id", "step"} <= there and batch.num_rows > 1:
        names, steps = batch.column("sample_id"), batch.column("step")
        if pc.all(pc.equal(names, names[0])).as_py() and pc.count_distinct(steps).as_py() < batch.num_rows:
            raise RolloutError(
                f"{printable(path)}: column sample_id has {printable(names[0])[:80]} in every row from "
                f"{before + 1} on, and tells no two samples apart; the file is damaged."
            )


def first_misfit(values: list[Any], kind: pa.DataType) -> int:
    """The position of the first value that no column of this type can hold."""
    for position, value in enumerate(values):
        try:
            pa.array([value], type=kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            return position
    return 0


def _fits(stored: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a column so stored may hold what the table has there; a cast then decides on each value."""
    if pa.types.is_dictionary(stored):
        stored = stored.value_type
    if pa.types.is_dictionary(wanted):
        wanted = wanted.value_type
    if pa.types.is_null(stored):
        return True
    if pa.types.is_map(wanted):
        return bool(pa.types.is_map(stored) or _is_list(stored))
    if pa.types.is_list(wanted):
        return _is_list(stored) and _fits(stored.value_type, wanted.value_type)
    return any(is_kind(wanted) and any(may(stored) for may in those) for is_kind, those in _KINDS)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


_Is = Callable[[pa.DataType], bool]
_NUMBER: tuple[_Is, ...] = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
# Whole numbers come back as floats from tables that had an empty cell, names as numbers from those that count.
_KINDS: tuple[tuple[_Is, tuple[_Is, ...]], ...] = (
    (pa.types.is_integer, _NUMBER),
    (pa.types.is_floating, _NUMBER),
    (pa.types.is_boolean, (pa.types.is_boolean, pa.types.is_integer)),
    (_is_text, (_is_text, pa.types.is_integer)),
    (_is_binary, (_is_binary,)),
)
