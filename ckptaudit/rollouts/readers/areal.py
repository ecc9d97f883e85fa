"""AReaL: `{log}/rollout/{version}/{task_id}.jsonl`, written with rollout.dump_to_file.

One line a sample: task_id, sample_idx, seqlen, prompt_len, head_version, tail_version, reward, prompt, completion.
The folder's number, the version at which the sample was written out, stands for the step.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.files import numbered
from ckptaudit.rollouts.lines import first_line, json_lines
from ckptaudit.rollouts.rows import ALWAYS, Row, batches_of, prompt_hash

NAME = "areal"
FILES = "rollout/{version}/{task_id}.jsonl"
COLUMNS = frozenset(
    ALWAYS
    | {"group_id", "version_first", "version_last", "prompt_len", "response_len", "reward", "prompt", "response"}
)
_NONE = "AReaL's dump has no log-probabilities or advantages"
MISSING = {
    "logp_rollout": _NONE,
    "logp_train": _NONE,
    "advantage": _NONE,
    "entropy": _NONE,
    "version_train": "AReaL's dump does not say at which version a sample was learnt from",
    "truncated": "declare max_response_length in [rollouts]",
}


class Sample(msgspec.Struct):
    """A line."""

    task_id: str | int
    seqlen: int
    prompt_len: int
    prompt: str
    completion: str
    reward: float | None = None
    sample_idx: int = 0
    head_version: int | None = None
    tail_version: int | None = None


def _folder(folder: Path) -> Path:
    return folder / "rollout" if (folder / "rollout").is_dir() else folder


def _files(folder: Path) -> Iterator[tuple[int, Path]]:
    for version, inner in numbered(_folder(folder), r"(\d{1,18})"):
        if inner.is_dir():
            for path in sorted(inner.glob("*.jsonl")):
                yield version, path


def recognises(folder: Path) -> bool:
    """Whether the first line of the first file has the versions in it."""
    found = next(_files(folder), None)
    line: dict[str, Any] | None = first_line(found[1]) if found else None
    return line is not None and {"task_id", "seqlen", "prompt_len"} <= line.keys()


def files(folder: Path) -> list[Path]:
    """The files that are read, in order."""
    return [path for _, path in _files(folder)]


def open(folder: Path, facts: RunFacts) -> Iterator[pa.RecordBatch]:
    """Version by version."""
    for version, path in _files(folder):
        yield from batches_of(_rows(path, version), path, folder.name)


def _rows(path: Path, version: int) -> Iterator[Row]:
    for sample in json_lines(path, Sample):
        yield {
            "step": version,
            "group_id": str(sample.task_id),
            "sample_id": f"{version}/{sample.task_id}/{sample.sample_idx}",
            "version_first": sample.head_version,
            "version_last": sample.tail_version,
            "prompt_hash": prompt_hash(sample.prompt),
            "prompt_len": sample.prompt_len,
            "response_len": sample.seqlen - sample.prompt_len,
            "reward": sample.reward,
            "prompt": sample.prompt,
            "response": sample.completion,
        }
