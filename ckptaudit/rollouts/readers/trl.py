"""TRL and Unsloth: `completions/completions_{step:05d}.parquet`, written with log_completions=True.

Columns: step, prompt, completion, one of doubles for each reward function, advantage. Each file holds the last
batch of generations before it was written. Which column of doubles is a reward cannot be told from one of
log_extra; all are taken. The reward is their weighted sum where the weights are declared, or there is one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ckptaudit.errors import RolloutError, printable
from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.files import numbered, regular_file
from ckptaudit.rollouts.rows import ALWAYS, Row, batches_of, prompt_hash
from ckptaudit.rollouts.table import UNREADABLE

NAME = "trl"
FILES = "completions/completions_*.parquet"
COLUMNS = frozenset(ALWAYS | {"group_id", "prompt", "response", "reward", "rewards", "advantage"})
_RECORDER = "TRL keeps it in memory; attach TrlRecorder of ckptaudit.integrations.trl"
MISSING = {
    "logp_rollout": f"{_RECORDER}, with use_vllm=True or a rollout_func, which return the engine's",
    "logp_train": _RECORDER,
    "entropy": _RECORDER,
    "response_len": _RECORDER,
    "truncated": _RECORDER,
    "version_first": _RECORDER,
    "reward": "declare reward_weights in [rollouts], as several reward functions were summed",
}
WHOLE_STEPS = False
_PATTERN = r"completions_(\d{1,18})\.parquet"


def _folder(folder: Path) -> Path:
    return folder / "completions" if (folder / "completions").is_dir() else folder


def recognises(folder: Path) -> bool:
    """Whether there is a file of that name."""
    return bool(numbered(_folder(folder), _PATTERN))


def files(folder: Path) -> list[Path]:
    """The files that are read, in order."""
    return [path for _, path in numbered(_folder(folder), _PATTERN)]


def open(folder: Path, facts: RunFacts) -> Iterator[pa.RecordBatch]:
    """File by file, which is by step."""
    seen: set[str] = set()
    for _, path in numbered(_folder(folder), _PATTERN):
        yield from batches_of(_rows(path, facts, seen), path, folder.name)


def _rows(path: Path, facts: RunFacts, seen: set[str]) -> Iterator[Row]:
    regular_file(path)
    try:
        with pq.ParquetFile(path) as file:
            rewards = _reward_columns(path, file.schema_arrow, seen)
            place = 0
            for batch in file.iter_batches(1024):
                for row in batch.to_pylist():
                    yield _row(path, row, rewards, facts.reward_weights, place)
                    place += 1
    except UNREADABLE as error:
        raise RolloutError(
            f"{printable(path)}: cannot be read as Parquet ({printable(str(error)[:160])})."
        ) from error


def _reward_columns(path: Path, schema: pa.Schema, seen: set[str]) -> list[str]:
    """The columns of rewards; `seen` gathers their names over the files. Raises RolloutError where there is none.

    A reward function that returned None for every sample leaves a column without a type.
    """
    for name in ("step", "prompt", "completion"):
        if name not in schema.names:
            raise RolloutError(f"{printable(path)}: no column {name}; TRL's table of completions has one.")
    others = [field for field in schema if field.name not in ("step", "prompt", "completion", "advantage")]
    found = [field.name for field in others if pa.types.is_floating(field.type)]
    for field in others:
        if field.name in seen and field.name not in found and not pa.types.is_null(field.type):
            held = printable(field.type)[:80]
            raise RolloutError(
                f"{printable(path)}: column {printable(field.name)[:80]} holds {held} from row 1 on, and numbers "
                "in the files before; the file is damaged."
            )
    if not found and not any(pa.types.is_null(field.type) for field in others):
        held = ", ".join(f"{printable(field.name)[:80]} holds {printable(field.type)[:80]}" for field in others[:3])
        raise RolloutError(
            f"{printable(path)}: no column of numbers beside the advantages, where TRL writes one for each reward "
            f"function{f' ({held})' if held else ''}; the file is damaged."
        )
    seen.update(found)
    return found


def _row(path: Path, row: dict[str, Any], names: list[str], weights: Mapping[str, float], place: int) -> Row:
    prompt = text_of(row["prompt"])
    digest = prompt_hash(prompt)
    rewards = {name: row[name] for name in names if row[name] is not None}
    return {
        "step": row["step"],
        "group_id": digest.hex(),
        "sample_id": f"{row['step']}/{place}",
        "prompt_hash": digest,
        "prompt": prompt,
        "response": text_of(row["completion"]),
        "reward": _total(rewards, names, weights),
        "rewards": list(rewards.items()) or None,
        "advantage": row.get("advantage"),
    }


def text_of(value: Any) -> str:
    """A text as it is; a conversation as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _total(rewards: dict[str, float], names: list[str], weights: Mapping[str, float]) -> float | None:
    if not rewards:
        return None
    if not weights:
        return rewards[names[0]] if len(names) == 1 else None
    return sum(weights.get(name, 0.0) * value for name, value in rewards.items())
