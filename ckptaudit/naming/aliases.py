"""Other spellings of tensor names: what one library stores as `attn.wq_a`, another calls `self_attn.q_a_proj`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from ckptaudit.naming.rules import rules

MAX_LENGTH = 2000
"""Of longer names no spelling is looked up and nothing is divided: no model has them."""


@dataclass(frozen=True, slots=True)
class Alias:
    """A sequence of words and the one it stands for. `needle` is a part that every such name contains."""

    pattern: re.Pattern[str]
    replacement: str
    needle: str

    def apply(self, name: str) -> str:
        """The name with the sequence replaced wherever it stands."""
        return self.pattern.sub(self.replacement, name) if self.needle in name else name


def aliases_of(table: Mapping[str, str]) -> tuple[Alias, ...]:
    """The aliases that a family's table writes down, in its order."""
    return tuple(_alias(words, meant) for words, meant in table.items())


def canonical(name: str, aliases: tuple[Alias, ...]) -> str:
    """The name in the spelling that roles and layouts are written for."""
    if len(name) > MAX_LENGTH:
        return name
    for alias in aliases:
        name = alias.apply(name)
    return name


@lru_cache(maxsize=1024)
def _alias(words: str, meant: str) -> Alias:
    # Every piece between two dots is read once, so matching is linear in the name.
    body = words.removeprefix("^")
    escaped = r"\.".join("([^.]+)" if word == "*" else re.escape(word) for word in body.split("."))
    start = _at_the_beginning() if body != words else r"(?:^|(?<=\.))"
    kept = r"\g<wrappers>" if body != words else ""
    numbers = iter(range(1 + (body != words), 10))
    target = ".".join(rf"\g<{next(numbers)}>" if word == "*" else word for word in meant.split("."))
    needle = max((word for word in body.split(".") if word != "*"), key=len)
    return Alias(re.compile(rf"{start}{escaped}(?=\.|$)"), (kept + target) if meant else kept, needle)


def _at_the_beginning() -> str:
    words = "|".join(re.escape(word) for word in (*rules().wrappers, *rules().inner_wrappers))
    return rf"^(?P<wrappers>(?:(?:{words})\.)*)"
