"""Probes from a JSON-lines file, with every mistake named by its line and key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ckptaudit.behavior.probe import KINDS, Kind, Message, Probe, Text
from ckptaudit.behavior.probe_lines import read_line
from ckptaudit.errors import ProbeError, parameter, printable
from ckptaudit.foreign_files import read_regular

__all__ = ["KINDS", "Kind", "Message", "Probe", "Text", "is_plain", "plain_parts", "read_probes"]

MAX_BYTES = 2**30
"""Of a file of probes."""

MAX_PROBES = 2**20


def read_probes(path: Path) -> list[Probe]:
    """Every probe of a JSON-lines file; docs/probes.md has the keys.

    Raises ProbeError, which names file, line and key.
    """
    probes = [read_line(line, number, _where(path, number)) for number, line in _lines(path)]
    if not probes:
        raise ProbeError(f'{_file(path)}: holds no probe; write one {{"text": ...}} a line.')
    _refuse_duplicates(path, probes)
    return probes


def plain_parts(probe: Probe) -> tuple[str, str]:
    """Prompt and completion of a probe with one plain text to score. Raises ProbeError for any other."""
    if not is_plain(probe):
        kind = "a conversation" if probe.conversational else f"of kind {probe.kind}"
        raise ProbeError(
            f'{parameter("probes")}, line {probe.line}: {kind}; here a probe is {{"text"}} or '
            f'{{"prompt", "completion"}} in plain text.'
        )
    (completion,) = probe.completions
    return str(probe.prompt), str(completion)


def is_plain(probe: Probe) -> bool:
    """Whether one plain text is scored: of kind "text" or "completion", and no conversation."""
    return probe.kind in ("text", "completion") and not probe.conversational


def _lines(path: Path) -> list[tuple[int, bytes]]:
    try:
        content = read_regular(path, MAX_BYTES)
    except OSError as error:
        raise ProbeError(f"{_file(path)}: {printable(error.strerror or 'cannot be read')}.") from None
    # Only at line feeds: JSON may hold the other characters that Python takes for ends of lines.
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if len(numbered) > MAX_PROBES:
        raise ProbeError(f"{_file(path)}: {len(numbered):,} probes, more than the {MAX_PROBES:,} that are read.")
    return numbered


def _refuse_duplicates(path: Path, probes: Sequence[Probe]) -> None:
    seen: dict[str, int] = {}
    for probe in probes:
        first = seen.setdefault(probe.id, probe.line)
        if first == probe.line:
            continue
        why = f'the "id" "{printable(probe.id)}" is already that of line {first}'
        if probe.id == probe.digest:
            why = f'says the same as line {first}; give both an "id" if both are meant to count'
        raise ProbeError(f"{_where(path, probe.line)}: {why}.")


def _file(path: Path) -> str:
    return f"{parameter('probes')} {printable(path)}"


def _where(path: Path, number: int) -> str:
    return f"{_file(path)}, line {number}"
