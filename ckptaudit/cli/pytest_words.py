"""The words that pytest is given, none of which may be a path that somebody else's files decide about.

pytest looks for its settings around every word of the command line that is a path, before it knows which words are
values of options that plugins define. A checkpoint given as `--tuned DIR` could so bring a pytest.ini, and that may
name modules of DIR to import. Written as `--tuned=DIR` the value is no word of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ckptaudit.options import AUXILIARY

FLAGS = ("--audit-exact", "--audit-strict", "--audit-debug", "--audit-digest")
"""Options of the audit that take no value."""

CHECKPOINTS = ("--base", "--tuned", *(f"--audit-{name.replace('_', '-')}" for name in AUXILIARY))

AUDITED = ("--base", "--tuned", "--audit-rollouts")
"""Options that name what is audited."""

NO_SETTINGS = ("--noconftest", f"--config-file={os.devnull}")
"""What keeps pytest from taking anything out of the folder it was started in."""


def joined(words: Sequence[str]) -> list[str]:
    """The words with every value of an option of the audit joined to its option: `--tuned X` as `--tuned=X`."""
    return list(_joined(iter(words)))


def is_audit(words: Sequence[str]) -> bool:
    """Whether these words ask for an audit."""
    return any(_is_one_of(word.partition("=")[0], AUDITED) for word in words)


def settled(words: Sequence[str], start: Path) -> list[str]:
    """The words, joined; and where pytest is started or sent inside a checkpoint, nothing there is imported."""
    found = joined(words)
    places = [start, *(Path(word.partition("::")[0]) for word in found if not word.startswith("-"))]
    if is_audit(found) and any(_is_inside_checkpoint(found, place) for place in places):
        found = [*NO_SETTINGS, f"--rootdir={start.anchor}", *found]
    return found


def _joined(words: Iterator[str]) -> Iterator[str]:
    for word in words:
        if word == "--":
            yield word
            yield from words
        elif _takes_value(word):
            value = next(words, None)
            yield word if value is None else f"{word}={value}"
        else:
            yield word


def _takes_value(word: str) -> bool:
    """Whether the next word is this one's value; options may be abbreviated."""
    if word.startswith("--audit-"):
        return "=" not in word and not any(flag.startswith(word) for flag in FLAGS)
    return len(word) > len("--x") and any(option.startswith(word) for option in ("--base", "--tuned"))


def _is_one_of(word: str, options: Sequence[str]) -> bool:
    return len(word) > len("--x") and any(option.startswith(word) for option in options)


def _is_inside_checkpoint(words: Sequence[str], place: Path) -> bool:
    try:
        here = place.resolve()
    except (OSError, ValueError):
        return False
    return any(here.is_relative_to(folder) for word in words for folder in _folders(word))


def _folders(word: str) -> Iterator[Path]:
    """The folders of what a checkpoint option names: those given, those of files given, those of each part."""
    option, equals, value = word.partition("=")
    if not equals or not _is_one_of(option, CHECKPOINTS):
        return
    for text in {value, *value.split("+"), value.rpartition("@")[0]}:
        try:
            path = _without_pattern(Path(text))
            if text and path.is_dir():
                yield path.resolve()
            elif text and path.is_file():
                yield path.resolve().parent
        except (OSError, ValueError):
            continue


def _without_pattern(path: Path) -> Path:
    """The folder in which a pattern starts; any other path as it is."""
    first = next((i for i, part in enumerate(path.parts) if any(c in part for c in "*?[")), None)
    return path if first is None else Path(*path.parts[:first])
