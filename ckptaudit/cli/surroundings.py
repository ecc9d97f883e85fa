"""What `init` can see around it: checkpoints, what kind of training they come from, and which CI there is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptaudit.foreign_files import is_regular, read_regular

DEPTH, MOST_FOLDERS, MOST_BYTES = 4, 5000, 16 * 2**20
SKIPPED = ("node_modules", "site-packages", "__pycache__")
REINFORCEMENT = ("reward", "rewards/mean", "kl", "completions/mean_length", "objective/kl")
"""Names in a trainer's log that reinforcement learning writes."""


@dataclass(frozen=True)
class Surroundings:
    """What is there. `ci` is "github", "gitlab" or ""."""

    checkpoints: tuple[Path, ...]
    base: str
    tuned: str
    profile: str
    why: str
    ci: str


def look_around(folder: Path) -> Surroundings:
    """Look at a folder and below; reads configurations and trainers' logs alone, a bounded number of folders."""
    found = sorted(_checkpoints(folder))
    tuned = _tuned(found)
    profile, why = _profile(tuned)
    return Surroundings(
        checkpoints=tuple(found),
        base=_base(found, tuned),
        tuned=str(tuned) if tuned else "",
        profile=profile,
        why=why,
        ci=_ci(folder),
    )


def _checkpoints(folder: Path) -> Iterator[Path]:
    waiting, seen = [(folder, 0)], 0
    while waiting and seen < MOST_FOLDERS:
        place, depth = waiting.pop(0)
        seen += 1
        try:
            entries = sorted(place.iterdir())
        except OSError:
            continue
        names = {entry.name for entry in entries}
        if {"config.json", "adapter_config.json"} & names and any(n.endswith(".safetensors") for n in names):
            yield place.relative_to(folder)
        if depth < DEPTH:
            waiting += [(entry, depth + 1) for entry in entries if _is_worth(entry)]


def _is_worth(entry: Path) -> bool:
    return (
        not entry.name.startswith(".") and entry.name not in SKIPPED and entry.is_dir() and not entry.is_symlink()
    )


def _tuned(found: list[Path]) -> Path | None:
    """The newest checkpoint that looks trained: a trainer's save, an adapter, or what is not called a base."""
    trained = [path for path in found if _is_trained(path)] or [path for path in found if not _is_called_base(path)]
    return max(trained, key=lambda path: (path.stat().st_mtime, path), default=None)


def _is_trained(path: Path) -> bool:
    return is_regular(path / "trainer_state.json") or is_regular(path / "adapter_config.json")


def _is_called_base(path: Path) -> bool:
    return "base" in path.name.lower()


def _base(found: list[Path], tuned: Path | None) -> str:
    """What an adapter names as its base, else a folder that is called one, else what is left of two."""
    if tuned is not None:
        named = _settings(tuned / "adapter_config.json").get("base_model_name_or_path")
        if isinstance(named, str) and named:
            return named
    called = [path for path in found if _is_called_base(path) and path != tuned]
    others = [path for path in found if path != tuned]
    return str(called[0]) if called else str(others[0]) if len(others) == 1 else ""


def _profile(tuned: Path | None) -> tuple[str, str]:
    if tuned is None:
        return "release", "no checkpoint is here to tell by"
    if is_regular(tuned / "adapter_config.json"):
        return "release_lora", "the tuned side is an adapter"
    logged = {name for row in _log(tuned) for name in row}
    if logged & set(REINFORCEMENT):
        return "release", "the trainer logged rewards"
    if logged:
        return "release_sft", "the trainer logged a loss and no reward"
    return "release", "the checks of reinforcement learning; release_sft is for supervised runs"


def _log(tuned: Path) -> list[dict[str, Any]]:
    rows = _settings(tuned / "trainer_state.json").get("log_history")
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _settings(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_regular(path, MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _ci(folder: Path) -> str:
    if (folder / ".gitlab-ci.yml").exists():
        return "gitlab"
    if (folder / ".github").is_dir():
        return "github"
    try:
        remote = read_regular(folder / ".git" / "config", MOST_BYTES).decode(errors="replace")
    except OSError:
        return ""
    return "gitlab" if "gitlab" in remote else "github" if "github" in remote else ""
