"""From what the user typed to a place on disk: a path, the newest save under one, or a model on the hub."""

from __future__ import annotations

import re
from pathlib import Path

from ckptaudit.errors import CheckpointError, printable

LATEST = "@latest"
STEP = re.compile(r"(?:checkpoint-|global_step_?|step[-_]?|iter_)(\d{1,18})")
HUB_ID = re.compile(r"([A-Za-z0-9][\w.\-]{0,95}/[A-Za-z0-9][\w.\-]{0,95})(?:@([\w.\-/]{1,200}))?")
SETTINGS = ("config.json", "adapter_config.json", "*.index.json")


def locate(text: str) -> Path:
    """The file or folder that is meant. Raises CheckpointError if there is none."""
    path = Path(text)
    if path.exists():
        return path
    if text.endswith(LATEST):
        return _latest(Path(text.removesuffix(LATEST)))
    match = HUB_ID.fullmatch(text)
    if path.is_symlink() or match is None or path.is_absolute():
        raise CheckpointError(f"{printable(text)}: no such file or directory; check the path{_links(path)}.")
    return _from_hub(text, match[1], match[2])


def saves(folder: Path) -> list[Path]:
    """The folders of a trainer's saves, oldest step first."""
    found = [(int(match[1]), child) for child in folder.iterdir() if (match := STEP.fullmatch(child.name))]
    return [child for _, child in sorted(found) if child.is_dir()]


def _latest(folder: Path) -> Path:
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
