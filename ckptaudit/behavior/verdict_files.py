"""Verdicts from a file, JSON lines or Parquet, read strictly: every mistake is named by line and key."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, cast

import msgspec
from msgspec import Meta

from ckptaudit.behavior.dataset_files import Row, dataset_rows
from ckptaudit.behavior.given_verdicts import WINS, Answerer, Choice, GivenVerdict, GivenVerdicts, VerdictKind
from ckptaudit.errors import ProbeError, nearest, parameter, printable

MOST_JUDGES = 64
MOST_SAMPLES = 4096
LARGEST = 1e60
"""No judge's score is larger, and fourth powers of this still have a float64."""

Name = Annotated[str, Meta(min_length=1, max_length=200)]


class _Line(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    id: Name | int
    judge: Name
    model: Answerer | None = None
    score: float | None = None
    unsafe: bool | None = None
    choice: Choice | None = None
    mean_log_p: Annotated[float, Meta(le=0)] | None = None
    sample: Annotated[int, Meta(ge=0, lt=MOST_SAMPLES)] = 0


KEYS = _Line.__struct_fields__
SAYINGS: tuple[VerdictKind, ...] = ("score", "unsafe", "choice", "mean_log_p")
"""Of which each line has one."""

OF_ONE_ANSWER = ("score", "unsafe")
"""Those that say whose answer they are on."""

VALUES: dict[str, tuple[str, ...]] = {"model": ("base", "tuned"), "choice": tuple(WINS)}

LISTED = 1000
"""Ids among which the nearest known one is looked for."""


def read_verdicts(path: Path, probes: Collection[str]) -> GivenVerdicts:
    """Every verdict of a file on these probes; docs/probes.md has the keys.

    Raises ProbeError, which names file, line and key; also where a verdict is on no probe.
    """
    rows = [(number, _read(row, _where(path, number))) for number, row in dataset_rows(path, KEYS, "verdicts")]
    if not rows:
        raise ProbeError(
            f'{_file(path)}: holds no verdict; write one {{"id": ..., "judge": ..., "choice": "tuned"}} a line.'
        )
    _refuse_unknown(path, rows, probes)
    _refuse_repeated(path, rows)
    judges = dict.fromkeys(row.judge for _, row in rows)
    if len(judges) > MOST_JUDGES:
        raise ProbeError(f"{_file(path)}: {len(judges):,} judges, more than the {MOST_JUDGES} that are read.")
    return GivenVerdicts(tuple(row for _, row in rows))


class _Wrong(Exception):
    """What is wrong with a line, in words that go on after its place."""


def _read(row: Row, where: str) -> GivenVerdict:
    try:
        return _verdict(_converted(row))
    except _Wrong as error:
        raise ProbeError(f"{where}: {error}") from None


def _converted(row: Row) -> _Line:
    unknown = next((key for key in row if key not in KEYS), None)
    if unknown is not None:
        raise _Wrong(f'unknown key "{printable(unknown)[:80]}"; {nearest(unknown[:80], KEYS)}')
    for key, allowed in VALUES.items():
        value = row.get(key)
        if isinstance(value, str) and value not in allowed:
            raise _Wrong(f'"{key}" is "{printable(value)[:80]}"; {nearest(value[:80], allowed)}')
    try:
        # Columns of Parquet have no value where a line of JSON would leave the key out.
        return msgspec.convert({key: value for key, value in row.items() if value is not None}, _Line)
    except msgspec.ValidationError as error:
        raise _Wrong(_explained(str(error))) from None


def _explained(said: str) -> str:
    what, _, place = said.partition(" - at `$.")
    missing = re.fullmatch(r"Object missing required field `(.*)`", what)
    if missing:
        return f'lacks "{missing[1]}".'
    what = printable(what[0].lower() + what[1:])
    return f'"{place.rstrip("`")}": {what}.' if place else f"{what}."


def _verdict(line: _Line) -> GivenVerdict:
    kind, value = _saying(line)
    if kind in OF_ONE_ANSWER and line.model is None:
        raise _Wrong(f'lacks "model", base or tuned: whose answer "{kind}" is on.')
    if kind not in OF_ONE_ANSWER and line.model is not None:
        about = "compares both answers" if kind == "choice" else "is of the probe's own completion"
        raise _Wrong(f'"model" does not go with "{kind}", which {about}.')
    return GivenVerdict(str(line.id), line.judge, kind, line.model, value, line.sample)


def _saying(line: _Line) -> tuple[VerdictKind, float | bool | str]:
    given = [kind for kind in SAYINGS if getattr(line, kind) is not None]
    if len(given) != 1:
        listed = ", ".join(f'"{kind}"' for kind in SAYINGS)
        found = f"holds {' and '.join(map(repr, given))}".replace("'", '"') if given else "says nothing"
        raise _Wrong(f"{found}; a verdict has one of {listed}.")
    value = getattr(line, given[0])
    if isinstance(value, float) and not math.isfinite(value):
        raise _Wrong(f'"{given[0]}" is {value}, and no finite number.')
    if isinstance(value, float) and abs(value) > LARGEST:
        raise _Wrong(f'"{given[0]}" is {value:g}, larger than the {LARGEST:g} that is read; scale the scores.')
    return given[0], cast("float | bool | str", value)


Numbered = Sequence[tuple[int, GivenVerdict]]


def _refuse_unknown(path: Path, rows: Numbered, probes: Collection[str]) -> None:
    strangers = [(number, row.id) for number, row in rows if row.id not in probes]
    if not strangers:
        return
    number, name = strangers[0]
    more = f", and {len(strangers) - 1:,} further lines" if len(strangers) > 1 else ""
    raise ProbeError(
        f'{_where(path, number)}{more}: "id" "{printable(name)}" is that of no probe of {parameter("probes")}; '
        f"{_nearest(name, probes)}"
    )


def _nearest(name: str, probes: Iterable[str]) -> str:
    listed = [printable(probe) for _, probe in zip(range(LISTED), probes, strict=False)]
    said = nearest(name, listed)
    return said if said.startswith("did you mean") else f"the first probe's is {listed[0]}."


def _refuse_repeated(path: Path, rows: Numbered) -> None:
    seen: dict[tuple[object, ...], int] = {}
    for number, row in rows:
        first = seen.setdefault((row.id, row.judge, row.kind, row.model, row.sample), number)
        if first != number:
            raise ProbeError(
                f'{_where(path, number)}: "{printable(row.judge)}" has said "{row.kind}" of this on line {first} '
                'already; give several verdicts different numbers as "sample".'
            )


def unjudged(verdicts: GivenVerdicts, probes: Collection[str]) -> Iterator[str]:
    """What a reader should know of probes that no verdict is on."""
    without = [name for name in probes if name not in verdicts.ids]
    if without:
        first = printable(without[0])[:80]
        yield f"{parameter('verdicts')}: none on {len(without):,} of {len(probes):,} probes, the first {first}"


def _file(path: Path) -> str:
    return f"{parameter('verdicts')} {printable(path)}"


def _where(path: Path, number: int) -> str:
    return f"{_file(path)}, {'row' if path.suffix == '.parquet' else 'line'} {number}"
