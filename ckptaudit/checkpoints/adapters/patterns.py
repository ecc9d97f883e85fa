r"""The patterns of an adapter's configuration that give some modules a rank or a scale of their own.

peft tries them in order as regular expressions, `(.*\.)?(PATTERN)$`, and takes the first that matches. Patterns
and names both come from the file, and together may cost no more than their lengths: patterns without repeats are
looked up in a table, and all others run side by side as one automaton, which never goes back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

MAX_EXPRESSIONS = 32
MAX_TOKENS = 1024
MAX_REPEATS = 3
MAX_WAYS = 64
"""How many different places of dots patterns of one length may have."""

_TOKEN = re.compile(r"(?:(?P<digit>\\d)|(?P<any>\.)|(?P<literal>\\[.\-]|[\w\-/]))(?P<repeat>[+*]?)")


class UnreadPatternError(Exception):
    """A pattern outside the language that is read; its text is the pattern."""


class Token(NamedTuple):
    """What one character of a name may be; `repeat` as in regular expressions."""

    kind: Literal["literal", "any", "digit"]
    character: str
    repeat: str


@dataclass(frozen=True)
class Patterns:
    """The patterns of one setting, ready to be matched."""

    values: tuple[float, ...]
    names: Names
    automaton: Automaton

    def first(self, module: str, default: float) -> float:
        """The value of the first pattern that matches a module's name, as peft chooses it, or the default."""
        found = min((*self.names.matches(module), *self.automaton.matches(module)), default=None)
        return default if found is None else self.values[found]


def compiled(patterns: Mapping[str, float]) -> Patterns:
    """The patterns in the order of the file. Raises UnreadPatternError for the first that is not read."""
    names, automaton, expressions = Names(), Automaton(), 0
    for number, pattern in enumerate(patterns):
        ways = [_parsed(pattern, way) for way in pattern.split("|")]
        if len(ways) == 1 and names.add(*ways[0], number):
            continue
        expressions += 1
        if expressions > MAX_EXPRESSIONS or not all(automaton.add(*way, number) for way in ways):
            raise UnreadPatternError(pattern)
    return Patterns(tuple(patterns.values()), names, automaton)


def _parsed(pattern: str, way: str) -> tuple[bool, tuple[Token, ...]]:
    """Whether it must start where the name does, and its tokens."""
    anchored, text = way.startswith("^"), way.removeprefix("^").removesuffix("$")
    tokens, at = [], 0
    while match := _TOKEN.match(text, at):
        at = match.end()
        kind = match.lastgroup if match.lastgroup != "repeat" else next(k for k in _KINDS if match[k] is not None)
        tokens.append(Token(kind, (match["literal"] or "")[-1:], match["repeat"]))  # type: ignore[arg-type]
    if at < len(text) or not tokens or sum(bool(token.repeat) for token in tokens) > MAX_REPEATS:
        raise UnreadPatternError(pattern)
    return anchored, tuple(tokens)


_KINDS = ("literal", "any", "digit")


@dataclass(frozen=True)
class Names:
    """Patterns of literals and single dots, by length, by the places of the dots, and by what stands elsewhere.

    A dot that is not escaped stands for any character.
    """

    tables: dict[int, dict[tuple[int, ...], dict[str, dict[bool, int]]]] = field(default_factory=dict)

    def add(self, anchored: bool, tokens: Sequence[Token], number: int) -> bool:
        """False where it is no such pattern, or one of too many kinds."""
        if any(token.kind == "digit" or token.repeat for token in tokens):
            return False
        places = tuple(i for i, token in enumerate(tokens) if token.kind == "any")
        tables = self.tables.setdefault(len(tokens), {})
        if places not in tables and len(tables) >= MAX_WAYS:
            return False
        elsewhere = "".join(token.character for token in tokens)
        tables.setdefault(places, {}).setdefault(elsewhere, {}).setdefault(anchored, number)
        return True

    def matches(self, module: str) -> Iterator[int]:
        """Numbers of the patterns that match the name, or all that follows one of its dots."""
        for start in (0, *(i + 1 for i, c in enumerate(module) if c == ".")):
            rest = module[start:]
            for places, table in self.tables.get(len(rest), {}).items():
                found = table.get(_without(rest, places), {})
                yield from (number for anchored, number in found.items() if not (anchored and start))


def _without(text: str, places: Sequence[int]) -> str:
    ends = (*places, len(text))
    return "".join(text[a:b] for a, b in zip((0, *(i + 1 for i in places)), ends, strict=True))


@dataclass
class Automaton:
    """Patterns as the bits of one number: bit i is set while the tokens before the i-th have been matched."""

    starts: int = 0
    anchored: int = 0
    optional: int = 0
    size: int = 0
    accepts: dict[int, int] = field(default_factory=dict)
    advance: dict[str, int] = field(default_factory=dict)
    stay: dict[str, int] = field(default_factory=dict)

    def add(self, anchored: bool, tokens: Sequence[Token], number: int) -> bool:
        """False where there is no room for it."""
        if self.size + len(tokens) > MAX_TOKENS:
            return False
        if anchored:
            self.anchored |= 1 << self.size
        else:
            self.starts |= 1 << self.size
        for bit, token in enumerate(tokens, self.size):
            key = token.character or token.kind
            self.advance[key] = self.advance.get(key, 0) | 1 << bit
            if token.repeat:
                self.stay[key] = self.stay.get(key, 0) | 1 << bit
            if token.repeat == "*":
                self.optional |= 1 << bit
        self.size += len(tokens) + 1
        self.accepts[self.size - 1] = number
        return True

    def matches(self, module: str) -> Iterator[int]:
        """Numbers of the patterns that match the name, or all that follows one of its dots."""
        if not self.size:
            return
        at = self._skipped(self.starts | self.anchored)
        for character in module:
            at = (at & self._mask(self.advance, character)) << 1 | (at & self._mask(self.stay, character))
            at = self._skipped(at | self.starts if character == "." else at)
        yield from (number for bit, number in self.accepts.items() if at >> bit & 1)

    def _skipped(self, at: int) -> int:
        # No more rounds than a pattern may have repeats.
        while (more := at | (at & self.optional) << 1) != at:
            at = more
        return at

    @staticmethod
    def _mask(masks: Mapping[str, int], character: str) -> int:
        digits = masks.get("digit", 0) if character.isdecimal() else 0
        return masks.get(character, 0) | masks.get("any", 0) | digits
