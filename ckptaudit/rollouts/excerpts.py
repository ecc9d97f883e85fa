"""A sample as a report shows it: what was asked and answered, cut to an excerpt."""

from __future__ import annotations

import msgspec

from ckptaudit.errors import printable

EXCERPT = 200
"""Characters of a prompt or response that are kept: its beginning and its end."""

ANY = ""
"""The name that every sample of a step has."""


class SampleExcerpt(msgspec.Struct, frozen=True, kw_only=True):
    """One sample of a step; texts are printable, with everything unseen escaped, and cut in the middle."""

    step: int
    sample: str
    group: str = ""
    reward: float | None = None
    advantage: float | None = None
    prompt: str = ""
    response: str = ""


def cut(text: str) -> str:
    """The text on one line with everything unseen escaped, its middle left out where it is long."""
    if len(text) > 4 * EXCERPT:
        # What is cut away need not be looked at, character by character.
        text = f"{text[: 2 * EXCERPT]}{text[-2 * EXCERPT :]}"
    clean = printable(text)
    if len(clean) <= EXCERPT:
        return clean
    return f"{clean[: EXCERPT * 2 // 3]} ... {clean[-EXCERPT // 3 :]}"
