"""JSON and text beside the weights, read as data: a damaged file is a fact about it, never an exception."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ckptaudit.checkpoints.json_files import MAX_DOCUMENT, clipped, file_size, reason
from ckptaudit.errors import CheckpointError
from ckptaudit.foreign_files import read_regular
from ckptaudit.foreign_files.places import Place

MAX_DEPTH = 100
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True, slots=True)
class JsonDocument:
    """One JSON object of a folder: its contents, or why it cannot be read.

    `repeated` names keys that occur twice in one object, `odd` the numbers (NaN, infinities) that JSON lacks.
    """

    name: str
    value: Mapping[str, object] = field(default_factory=dict)
    problem: str = ""
    repeated: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TextDocument:
    """One text file of a folder, or why it cannot be read."""

    name: str
    text: str = ""
    problem: str = ""


def read_json(path: Place, name: str) -> JsonDocument:
    """The JSON object in a file. Bounded in size and depth; every fault ends up in the record."""
    try:
        text = _text(path)
        parsed = _Parser()
        value = json.loads(text, object_pairs_hook=parsed.object, parse_constant=parsed.constant)
    except RecursionError:
        return JsonDocument(name, problem=f"nested deeper than {MAX_DEPTH} levels")
    except (OSError, ValueError, CheckpointError) as error:
        return JsonDocument(name, problem=_said(error))
    if not isinstance(value, dict):
        return JsonDocument(name, problem=f"holds a JSON {type(value).__name__} where an object is expected")
    if _depth(value) > MAX_DEPTH:
        return JsonDocument(name, problem=f"nested deeper than {MAX_DEPTH} levels")
    return JsonDocument(name, value, "", tuple(sorted(parsed.repeated)), tuple(sorted(parsed.odd)))


def read_text(path: Place, name: str) -> TextDocument:
    """The text of a file. Bounded; every fault ends up in the record."""
    try:
        return TextDocument(name, _text(path))
    except (OSError, ValueError, CheckpointError) as error:
        return TextDocument(name, problem=_said(error))


def text_of(value: object) -> str:
    """The value where it is text, else nothing."""
    return value if isinstance(value, str) else ""


def mapping_of(value: object) -> Mapping[str, object]:
    """The value where it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def list_of(value: object) -> list[object]:
    """The value where it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def integer_of(value: object) -> int | None:
    """The value where it is a whole number (and no truth value) that a size or an id can be, else None."""
    sound = isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    return value if sound and isinstance(value, int) else None


class _Parser:
    """What the JSON parser meets and would forget: repeated keys, numbers outside JSON."""

    def __init__(self) -> None:
        self.repeated: set[str] = set()
        self.odd: set[str] = set()

    def object(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            self.repeated |= {key for key, _ in pairs if key in seen or seen.add(key)}  # type: ignore[func-returns-value]
        return found

    def constant(self, name: str) -> float:
        self.odd.add(name)
        return float(name)


def _text(path: Place) -> str:
    size = file_size(path)
    if size > MAX_DOCUMENT:
        raise ValueError(f"{size:,} bytes, more than the {MAX_DOCUMENT:,} that are read")
    raw = read_regular(path, MAX_DOCUMENT)
    if raw.startswith(LFS_POINTER):
        raise ValueError("a Git LFS pointer and not the file itself: run git lfs pull")
    return raw.decode("utf-8")


def _depth(value: object) -> int:
    """Levels of nesting, counted without recursion and only as far as they matter."""
    level, at = [value], 0
    while level and at <= MAX_DEPTH:
        level = [inner for outer in level for inner in _inside(outer)]
        at += 1
    return at


def _inside(value: object) -> Iterator[object]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    yield from (v for v in inner if isinstance(v, dict | list))


def _said(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text (byte {error.start:,})"
    if isinstance(error, CheckpointError):
        return "not a regular file"
    return clipped(reason(error))
