"""The machine-readable report, from which every other can be made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from ckptaudit.atomic_write import write_bytes
from ckptaudit.errors import ReportError, printable
from ckptaudit.foreign_files import read_regular
from ckptaudit.judging.verdict import Verdict
from ckptaudit.results.foreign_texts import may_hide, shown
from ckptaudit.results.records import SCHEMA, AuditResult

MAX_RESULT = 4 * 2**30
"""Bytes of the JSON of an audit; a model of a million matrices has a tenth of it."""


class _Head(msgspec.Struct):
    schema: str


def write_json(result: AuditResult, path: Path) -> None:
    """Write the result to `path`, whole or not at all. Raises OSError."""
    write_bytes(path, msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")


def read_json(path: Path) -> AuditResult:
    """Read a result back, of this release or an earlier one. Raises ReportError naming file and mend."""
    try:
        content = read_regular(path, MAX_RESULT)
    except OSError as error:
        raise ReportError(f"{printable(path)}: cannot be read ({printable(error.strerror or error)}).") from None
    try:
        schema = msgspec.json.decode(content, type=_Head).schema
        if schema != SCHEMA:
            raise ReportError(_other_schema(path, schema))
        result = _decoded(content)
        _check_lengths(result)
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        why = f"not the result of an audit ({printable(str(error)[:300])})"
        raise ReportError(f"{printable(path)}: {why}; give the JSON that an audit wrote.") from None
    return msgspec.structs.replace(result, verdicts=tuple(_completed(v) for v in result.verdicts))


def _decoded(content: bytes) -> AuditResult:
    if may_hide(content):
        return msgspec.convert(shown(msgspec.json.decode(content)), AuditResult)
    return msgspec.json.decode(content, type=AuditResult)


def _check_lengths(result: AuditResult) -> None:
    """What stands side by side has one length. Raises ValueError."""
    groups: list[list[Any]] = [
        *([s.ranks, s.base_singular_values, s.tuned_singular_values] for s in result.spectra),
        *([s.angle_ranks, s.left_angles, s.right_angles] for s in result.spectra),
        *([t.steps, c.lowest, c.median, c.highest] for t in result.trajectories for c in t.series),
        *([s.tuned, *s.figures.values()] for s in result.siblings),
        *([d.sizes, d.below, d.above] for r in result.rollouts if (d := r.distributions)),
        *([r.step_numbers, c.values, c.samples] for r in result.rollouts for c in r.curves),
        *([c.values, c.low, c.high] for r in result.rollouts for c in r.curves if c.low or c.high),
    ]
    if any(len({len(values) for values in group}) > 1 for group in groups):
        raise ValueError("curves of different length stand side by side")


def _other_schema(path: Path, schema: str) -> str:
    schema = schema[:100]
    name, _, number = schema.partition("/")
    if name == "ckptaudit" and number.isdecimal():
        return f"{printable(path)}: has schema {printable(schema)}, this release reads {SCHEMA}; update ckptaudit."
    return f"{printable(path)}: has schema '{printable(schema)}', not {SCHEMA}; give the JSON that an audit wrote."


def _completed(verdict: Verdict) -> Verdict:
    """A verdict of a release that did not write on which side of the limit good values lie: it follows."""
    if verdict.sign:
        return verdict
    held = verdict.outcome == "passed"
    below = verdict.value is None or verdict.value <= verdict.limit
    return msgspec.structs.replace(verdict, sign="<=" if below == held or verdict.value is None else ">=")
