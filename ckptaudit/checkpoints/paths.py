"""From what the user typed to places on disk: paths, patterns, `@latest`, `FOLDER@all`, models on the hub."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ckptaudit.checkpoints.json_files import reason
from ckptaudit.checkpoints.sources import is_url, remote_path
from ckptaudit.errors import CheckpointError, parameter, printable
from ckptaudit.foreign_files.places import Place

LATEST = "@latest"
ALL = "@all"
STEP = re.compile(r"(?:checkpoint-|global_step_?|step[-_]?|iter_)(\d{1,18})")
HUB_ID = re.compile(r"([A-Za-z0-9][\w.\-]{0,95}/[A-Za-z0-9][\w.\-]{0,95})(?:@([\w.\-/]{1,200}))?")
STEP_IN_NAME = re.compile(r"(.*?)(?:checkpoint|global_step|step|iter)[-_]?(\d{1,18})")
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
"""Files that a pattern may mean; whatever else lies beside the checkpoints is passed over."""

SETTINGS = (
    "*.json", "*.jinja", "additional_chat_templates/*.jinja", "merges.txt", "vocab.txt", "*.tiktoken",
    "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "source.spm", "target.spm",
)  # fmt: skip
"""What is fetched from the hub beside the weights: configuration, tokenizer and templates, which are judged too."""


def locate(text: str) -> Place:
    """The file or folder that is meant. Raises CheckpointError if there is none."""
    if is_url(text):
        return _remote(text)
    path = Path(text)
    if path.exists():
        return path
    if text.endswith(LATEST):
        return _latest(Path(text.removesuffix(LATEST)))
    match = HUB_ID.fullmatch(text)
    if path.is_symlink() or match is None or path.is_absolute():
        raise CheckpointError(f"{printable(text)}: no such file or directory; check the path{_links(path)}.")
    return _from_hub(text, match[1], match[2])


def saves(folder: Place) -> list[Place]:
    """The folders of a trainer's saves, oldest step first."""
    found = [(int(match[1]), child) for child in folder.iterdir() if (match := STEP.fullmatch(child.name))]
    return [child for _, child in sorted(found, key=lambda one: (one[0], str(one[1]))) if child.is_dir()]


def _remote(text: str) -> Place:
    """What a URL names. Of the hub a revision may be called anything, and so @latest means that one."""
    if text.endswith(LATEST) and not text.startswith("hf:"):
        return _latest(remote_path(text.removesuffix(LATEST)))
    place = remote_path(text)
    try:
        found = place.exists()
    except OSError as error:
        raise CheckpointError(
            f"{printable(place)}: cannot be reached ({reason(error)}); check the address."
        ) from error
    if not found:
        why = "access was refused" if place.was_refused else "nothing is there"
        raise CheckpointError(f"{printable(place)}: {why}; check address and credentials.")
    return place


def _latest(folder: Place) -> Place:
    if not folder.is_dir():
        raise CheckpointError(f"{printable(folder)}: no such directory; check the path before {LATEST}.")
    found = saves(folder)
    if not found:
        raise CheckpointError(
            f"{printable(folder)}: no checkpoint-N, global_step_N or iter_N below it; pass the folder of "
            "the weights."
        )
    return found[-1]


def _links(path: Path) -> str:
    return "; the symbolic link leads nowhere" if path.is_symlink() else ""


def _from_hub(text: str, name: str, revision: str | None) -> Path:
    """A snapshot in the hub's cache: weights and configurations alone, never code."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CheckpointError(
            f"{printable(text)}: no such path, and Hugging Face models need `pip install huggingface_hub`."
        ) from error
    try:
        snapshot = Path(snapshot_download(name, revision=revision, allow_patterns=["*.safetensors", *SETTINGS]))
        if not any(snapshot.glob("*.safetensors")):
            snapshot = Path(snapshot_download(name, revision=revision, allow_patterns=["*.bin", *SETTINGS]))
    except Exception as error:  # the hub's client raises errors of several libraries
        raise CheckpointError(
            f"{printable(text)}: no such path, and the Hugging Face hub gave no model of that name "
            f"({type(error).__name__}); check the spelling, the connection and `hf auth login`, or pass a "
            "local folder."
        ) from error
    return snapshot


@dataclass(frozen=True, slots=True)
class Named:
    """A tuned checkpoint as asked for: the path to open, a unique short name, and where it stands in which run.

    `run` is what its path says but for the step: equal for the saves of one training run. `step` is None
    where the path has no number.
    """

    path: str
    label: str
    run: str
    step: int | None


def written_out(asked: Sequence[str]) -> tuple[Named, ...]:
    """Every checkpoint that is meant, in the order asked for; saves found by a pattern in order of step.

    Raises CheckpointError if a pattern or folder finds nothing, or two words name one checkpoint.
    """
    paths = [path for text in asked for path in _meant(text)]
    _refuse_repeated(paths)
    named = [(path, *_run_and_step(path)) for path in paths]
    return tuple(
        Named(path, label, run, step) for (path, run, step), label in zip(named, labels(paths), strict=True)
    )


def labels(paths: Sequence[str]) -> list[str]:
    """The shortest ends of the paths that tell all of them apart; empty for one path alone."""
    if len(paths) == 1:
        return [""]
    parts = [Path(path).parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        ends = ["/".join(p[-length:]) for p in parts]
        if len(set(ends)) == len(ends):
            return ends
    return list(paths)


def _meant(text: str) -> list[str]:
    if is_url(text):
        all_saves = text.endswith(ALL) and not text.startswith("hf:")
        return _all_saves(remote_path(text.removesuffix(ALL))) if all_saves else [text]
    if Path(text).exists():
        return [text]
    if text.endswith(ALL):
        return _all_saves(Path(text.removesuffix(ALL)))
    return _matches(text) if any(c in text for c in "*?[") else [text]


def _all_saves(folder: Place) -> list[str]:
    if not folder.is_dir():
        raise CheckpointError(f"{printable(folder)}: no such directory; check the path before {ALL}.")
    found = [str(path) for path in saves(folder)]
    if not found:
        raise CheckpointError(
            f"{printable(folder)}: no checkpoint-N, global_step_N or iter_N below it; pass the folders of the "
            "weights one by one."
        )
    return found


def _matches(pattern: str) -> list[str]:
    # A path may be absolute, and pathlib globs below a folder only.
    anchor = Path(Path(pattern).anchor or ".")
    try:
        found = sorted(anchor.glob(str(Path(pattern).relative_to(anchor)) if anchor.anchor else pattern))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{printable(pattern)}: no pattern for paths ({printable(error)}).") from error
    found = [path for path in found if path.is_dir() or path.suffix in WEIGHTS]
    if not found:
        raise CheckpointError(f"{printable(pattern)}: no folder or file of weights matches; check the pattern.")
    return [str(path) for path in sorted(found, key=_by_step)]


def _by_step(path: Path) -> tuple[str, int, str]:
    run, step = _run_and_step(str(path))
    return run, -1 if step is None else step, path.name


def _run_and_step(path: str) -> tuple[str, int | None]:
    """The path without its step, and the step: of the last part that ends in one."""
    parts = Path(path).parts
    for position in range(len(parts) - 1, -1, -1):
        if match := STEP_IN_NAME.fullmatch(parts[position]):
            return str(Path(*parts[:position], match[1] or ".", *parts[position + 1 :])), int(match[2])
    return path, None


def _refuse_repeated(paths: Sequence[str]) -> None:
    counted = Counter(Path(path).resolve() if Path(path).exists() else path for path in paths)
    for path in _more_than_once(counted):
        raise CheckpointError(f"{path}: given twice as {parameter('tuned')}; name each checkpoint once.")


def _more_than_once(counted: Counter[Path | str]) -> Iterator[str]:
    yield from (printable(path) for path, count in counted.items() if count > 1)
