"""Probe texts from a JSON-lines file, with every mistake named by its line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from ckptaudit.errors import CollectionError, parameter, printable
from ckptaudit.foreign_files import read_text

MAX_PROBES = 2**30
"""Bytes of a file of probes."""


@dataclass(frozen=True)
class Probe:
    """A text whose tokens are scored: all that follow its first where there is no prompt, else the completion's."""

    line: int
    prompt: str
    completion: str


class _Line(msgspec.Struct, forbid_unknown_fields=False):
    text: str | None = None
    prompt: str | None = None
    completion: str | None = None


def read_probes(path: Path) -> list[Probe]:
    """Every probe of a file of `{"text": ...}` or `{"prompt": ..., "completion": ...}` lines.

    Raises CollectionError.
    """
    try:
        lines = read_text(path, MAX_PROBES).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else (error.strerror or "cannot be read")
        raise CollectionError(f"{parameter('probes')} {printable(path)}: {why}.") from None
    probes = [_probe(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not probes:
        raise CollectionError(
            f'{parameter("probes")} {printable(path)}: holds no probe; write one {{"text": ...}} a line.'
        )
    return probes


def _probe(path: Path, number: int, text: str) -> Probe:
    where = f"{parameter('probes')} {printable(path)}, line {number}"
    try:
        line = msgspec.json.decode(text, type=_Line)
    except msgspec.MsgspecError as error:
        raise CollectionError(f"{where}: {printable(error)}.") from None
    if line.text is not None and line.prompt is None and line.completion is None:
        return Probe(number, "", line.text)
    if line.text is None and line.prompt is not None and line.completion is not None:
        return Probe(number, line.prompt, line.completion)
    raise CollectionError(f'{where}: needs either "text", or "prompt" and "completion".')
