"""Foreign text made harmless for the medium that shows it; a choke point each, whatever the renderers did before.

Names, claims, paths and versions may come from the JSON of somebody else's audit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ckptaudit.errors import printable

if TYPE_CHECKING:
    from rich.text import Text

# Services that run jobs obey lines like these in a job's log: `::error ...`, also indented, and `##vso[...]`.
_COMMAND = re.compile(r"^(\s*):(?=:)|#(?=#(?:vso|teamcity)?\[)")


def log_line(text: str) -> str:
    """One line for a terminal or a log: nothing unseen in it, and no command of a service that runs jobs."""
    return _COMMAND.sub(lambda found: f"{found[1]}\\x3a" if found[0].endswith(":") else "\\x23", printable(text))


def log_lines(text: str) -> str:
    """The same of several lines."""
    return "\n".join(map(log_line, text.split("\n")))


def styled_line(line: Text) -> Text:
    """The same of a line with styles, which it keeps where there was nothing to escape."""
    from rich.text import Text

    clean = log_line(line.plain)
    return line if clean == line.plain else Text(clean, line.style)


def block(text: str) -> str:
    """Several lines for XML or a page: all but the ends of lines escaped where it is not seen as it is."""
    return "\n".join(map(printable, text.split("\n")))


def github_data(text: str) -> str:
    """The message of a workflow command."""
    return _percent(printable(text), "%")


def github_property(text: str) -> str:
    """A property of a workflow command."""
    return _percent(printable(text), "%:,")


def _percent(text: str, characters: Iterable[str]) -> str:
    for character in characters:
        text = text.replace(character, f"%{ord(character):02X}")
    return text
