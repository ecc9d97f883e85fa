"""Amounts of memory as people write them: `512MiB`, `20 GiB`, `1.5GB`."""

from __future__ import annotations

import re

UNITS = {
    "B": 1,
    **{f"{letter}iB": 2 ** (10 * power) for power, letter in enumerate("KMGT", 1)},
    **{f"{letter}B": 10 ** (3 * power) for power, letter in enumerate("KMGT", 1)},
}
_SIZE = re.compile(rf"([0-9]{{1,9}}(?:\.[0-9]{{1,6}})?)\s*({'|'.join(UNITS)})")


def parse_size(text: str) -> int:
    """The number of bytes that `text` names. Raises ValueError, which says what is allowed."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError("a size is a number with its unit, such as 512MiB or 20GiB")
    return int(float(found[1]) * UNITS[found[2]])


def format_size(count: int) -> str:
    """`20.0 GiB`, in the largest binary unit that leaves at least one."""
    for letter in "TGMK":
        if count >= UNITS[f"{letter}iB"]:
            return f"{count / UNITS[f'{letter}iB']:.1f} {letter}iB"
    return f"{count} B"
