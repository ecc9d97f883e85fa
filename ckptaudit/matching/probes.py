"""Probe text for a language model: one JSON object a line, `{"text": ...}` or `{"prompt": ..., "completion": ...}`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ckptaudit.errors import MeasurementError, printable

MAX_BYTES = 64 * 2**20


class Probe(msgspec.Struct, frozen=True):
    """A text; where it is given in two parts, only the completion is judged."""

    text: str = ""
    prompt: str = ""
    completion: str = ""


def read_probes(path: str) -> tuple[Probe, ...]:
    """The probes of a file. Raises MeasurementError naming the file, the line and what is expected there."""
    file = Path(path)
    try:
        if file.stat().st_size > MAX_BYTES:
            raise MeasurementError(f"{printable(path)}: over {MAX_BYTES // 2**20} MiB of probes; give fewer")
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise MeasurementError(f"{printable(path)}: cannot be read ({printable(error)})") from error
    probes = tuple(_probe(path, number, line) for number, line in enumerate(lines, start=1) if line.strip())
    if not probes:
        raise MeasurementError(f"{printable(path)}: no probe in it")
    return probes


def _probe(path: str, number: int, line: str) -> Probe:
    try:
        probe = msgspec.json.decode(line, type=Probe)
    except (msgspec.DecodeError, RecursionError) as error:
        raise MeasurementError(
            f'{printable(path)}, line {number}: expected {{"text": ...}} or {{"prompt": ..., "completion": ...}} '
            f"({printable(error)})"
        ) from error
    if not (probe.text or probe.completion):
        raise MeasurementError(f"{printable(path)}, line {number}: neither a text nor a completion to judge")
    return probe
