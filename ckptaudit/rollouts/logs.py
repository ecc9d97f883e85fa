"""The logs that are meant: paths, patterns and `FOLDER@all` to one log for each run, with the curves beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ckptaudit.errors import RolloutError, parameter, printable

ALL = "@all"


@dataclass(frozen=True, slots=True)
class NamedLog:
    """The rollouts of one run and its curves, by path."""

    path: str
    scalars: tuple[str, ...] = ()


def written_out(rollouts: Sequence[str], scalars: Sequence[str] = ()) -> tuple[NamedLog, ...]:
    """Every log that is meant, in the order asked for, each of a run of its own.

    All curves belong to the log where there is one; several logs have none, or one each in the same order.
    Raises RolloutError if a path, pattern or folder finds nothing, a log is named twice, or curves are left over.
    """
    paths = [path for text in rollouts for path in _meant(text)]
    repeated = next((p for i, p in enumerate(paths) if Path(p).resolve() in _resolved(paths[:i])), None)
    if repeated is not None:
        raise RolloutError(f"{parameter('rollouts')} {printable(repeated)}: this log is named twice.")
    if not paths and scalars:
        raise RolloutError(f"{parameter('scalars')} are judged beside rollouts; give {parameter('rollouts')} PATH.")
    if len(paths) < 2:
        return tuple(NamedLog(path, tuple(scalars)) for path in paths)
    if scalars and len(scalars) != len(paths):
        raise RolloutError(
            f"{parameter('scalars')}: {len(scalars)} given for {len(paths)} logs of rollouts; give none, or one "
            "for each in the same order."
        )
    return tuple(NamedLog(path, tuple(scalars[i : i + 1])) for i, path in enumerate(paths))


def _resolved(paths: Sequence[str]) -> set[Path]:
    return {Path(path).resolve() for path in paths}


def _meant(text: str) -> list[str]:
    if Path(text).exists():
        return [text]
    if text.endswith(ALL):
        return _logs_in(Path(text.removesuffix(ALL)))
    if any(character in text for character in "*?["):
        return _matches(text)
    raise RolloutError(f"{parameter('rollouts')} {printable(text)}: no such file or folder.")


def _matches(pattern: str) -> list[str]:
    # A path may be absolute, and pathlib globs below a folder only.
    anchor = Path(Path(pattern).anchor or ".")
    try:
        found = sorted(anchor.glob(str(Path(pattern).relative_to(anchor)) if anchor.anchor else pattern))
    except (ValueError, OSError) as error:
        raise RolloutError(f"{printable(pattern)}: no pattern for paths ({printable(error)}).") from error
    if not found:
        raise RolloutError(f"{parameter('rollouts')} {printable(pattern)}: nothing matches; check the pattern.")
    return [str(path) for path in found]


def _logs_in(folder: Path) -> list[str]:
    """The logs that lie directly in a folder: each of its folders, and whatever file is one."""
    if not folder.is_dir():
        raise RolloutError(
            f"{parameter('rollouts')} {printable(folder)}: no such directory; check the path before {ALL}."
        )
    found = list(_entries(folder))
    if not found:
        raise RolloutError(f"{parameter('rollouts')} {printable(folder)}: no folder and no log of rollouts in it.")
    return found


def _entries(folder: Path) -> Iterator[str]:
    """Every folder in it, since a run that cannot be read must not go missing, and files that are logs."""
    from ckptaudit.rollouts.readers import readers

    for path in sorted(folder.iterdir()):
        hidden = path.name.startswith(".")
        if not hidden and (path.is_dir() or any(reader.recognises(path) for reader in readers())):
            yield str(path)
