"""The texts of somebody else's result, with everything escaped that would not be seen as it is."""

from __future__ import annotations

import re
from typing import Any

from ckptaudit.errors import printable

_MAY_HIDE = re.compile(rb"\\[ubfrt]|[\x80-\xff]")


def may_hide(content: bytes) -> bool:
    """Whether a JSON file can hold any text but plain ASCII and ends of lines; most do not."""
    return _MAY_HIDE.search(content) is not None


def shown(value: Any) -> Any:
    """The decoded JSON with `printable` texts and keys; ends of lines stay, since claims are paragraphs."""
    if isinstance(value, str):
        return "\n".join(map(printable, value.split("\n")))
    if isinstance(value, list):
        return [shown(item) for item in value]
    return {printable(key): shown(item) for key, item in value.items()} if isinstance(value, dict) else value
