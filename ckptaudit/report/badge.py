"""A badge with the gate's answer: an SVG made here, or the JSON that a shields endpoint serves."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ckptaudit.atomic_write import write_text
from ckptaudit.errors import ReportError, printable
from ckptaudit.results.gate import answer
from ckptaudit.results.records import AuditResult

LABEL = "checkpoint audit"
COLOURS = {"brightgreen": "#2f7d32", "yellow": "#8a6100", "red": "#b3261e"}
"""By shields' name of the colour, one with a contrast of more than 4.5 to white."""

FONT = "Verdana,DejaVu Sans,sans-serif"
LETTER, PADDING, HEIGHT = 6.6, 10, 20
"""Pixels: the mean width of a letter at 11 px, the room beside a text, and the badge."""


def write_badge(result: AuditResult, path: Path) -> None:
    """Write the badge that the file's ending asks for. Raises OSError, and ReportError for another ending."""
    made = {".svg": svg, ".json": endpoint}.get(path.suffix)
    if made is None:
        raise ReportError(f"{printable(path)}: a badge is an .svg or the .json of a shields endpoint.")
    write_text(path, made(result))


def endpoint(result: AuditResult) -> str:
    """The JSON of https://shields.io/badges/endpoint-badge."""
    message, colour = _said(result)
    made = {"schemaVersion": 1, "label": LABEL, "message": message, "color": colour}
    return msgspec.json.encode(made).decode() + "\n"


def svg(result: AuditResult) -> str:
    """The badge as a picture that needs no font of its own and loads nothing."""
    message, colour = _said(result)
    left, right = (round(len(text) * LETTER) + PADDING for text in (LABEL, message))
    texts = "".join(
        f'<text x="{x:g}" y="14" textLength="{width - PADDING}" lengthAdjust="spacingAndGlyphs">{text}</text>'
        for text, x, width in ((LABEL, left / 2, left), (message, left + right / 2, right))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="{HEIGHT}" role="img" '
        f'aria-label="{LABEL}: {message}"><title>{LABEL}: {message}</title>'
        f'<rect width="{left}" height="{HEIGHT}" fill="#444"/>'
        f'<rect x="{left}" width="{right}" height="{HEIGHT}" fill="{COLOURS[colour]}"/>'
        f'<g fill="#fff" font-family="{FONT}" font-size="11" text-anchor="middle">{texts}</g>'
        "</svg>\n"
    )


def _said(result: AuditResult) -> tuple[str, str]:
    """The answer in a few words, without any text of the result's own, and its colour."""
    summary = result.summary
    if not answer(result.verdicts).is_open:
        return f"closed, {summary.failed + summary.errors} failed", "red"
    opened = "open" if result.has_pair else "rollouts open"
    forgiven = summary.waived + summary.warned
    if forgiven:
        return f"{opened}, {summary.passed} passed, {forgiven} warned", "yellow"
    return f"{opened}, {summary.passed} passed", "brightgreen"
