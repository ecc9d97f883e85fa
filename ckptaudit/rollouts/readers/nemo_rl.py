"""NeMo-RL: `{log_dir}/train_data_step{N}.jsonl`.

One line a sample, values wrapped in lists of one and padded. Entry t of the log-probabilities belongs to token t
of the full sequence, the first entry is void, and only token_loss_mask says where the answer is. Rows of a group
follow one another, so groups need the declared group_size: rows of different environments may share a prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ckptaudit.errors import RolloutError, printable
from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.files import numbered
from ckptaudit.rollouts.lines import first_line_of, json_lines
from ckptaudit.rollouts.rows import ALWAYS, Row, batches_of, constant, prompt_hash, whole_ids

NAME = "nemo-rl"
FILES = "train_data_step*.jsonl"
COLUMNS = frozenset(
    ALWAYS
    | {"logp_semantics", "group_id", "prompt_len", "response_len"}
    | {"reward", "advantage", "response", "token_ids", "loss_mask", "logp_rollout", "logp_train", "advantages"}
)
MISSING = {
    "group_id": "declare group_size in [rollouts]; NeMo-RL writes the samples of a group one after another",
    "entropy": "NeMo-RL logs its mean alone",
    "version_first": "NeMo-RL does not log weight versions",
    "truncated": "declare max_response_length in [rollouts]",
}
_PATTERN = r"train_data_step(\d{1,18})\.jsonl"
_LISTS = ("token_ids", "token_loss_mask", "generation_logprobs", "prev_logprobs", "advantages")


def recognises(folder: Path) -> bool:
    """Whether files have that name and log-probabilities in them."""
    files = numbered(folder, _PATTERN)
    line = first_line_of(path for _, path in files)
    return line is not None and {"token_loss_mask", "generation_logprobs"} <= line.keys()


def files(folder: Path) -> list[Path]:
    """The files that are read, in order."""
    return [path for _, path in numbered(folder, _PATTERN)]


def open(folder: Path, facts: RunFacts) -> Iterator[pa.RecordBatch]:
    """Step by step."""
    for step, path in numbered(folder, _PATTERN):
        yield from batches_of(_rows(path, step, facts.group_size), path, folder.name)


def _rows(path: Path, step: int, group_size: int | None) -> Iterator[Row]:
    for number, line in enumerate(json_lines(path, dict[str, Any])):
        try:
            yield _row(line, step, number, group_size)
        except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
            raise RolloutError(
                f"{printable(path)}: line {number + 1} is not a sample of NeMo-RL ({printable(str(error)[:120])})."
            ) from error


def _row(line: dict[str, Any], step: int, number: int, group_size: int | None) -> Row:
    lists = {name: np.asarray(_unwrapped(line[name]), dtype=np.float64) for name in _LISTS if name in line}
    ids, inside = lists["token_ids"], lists["token_loss_mask"] > 0
    end = int(_number(line.get("input_lengths", len(ids))))
    start = int(inside.argmax()) if inside.any() else end
    counted = bool(_number(line.get("sample_loss_mask", 1.0)))
    answer = {name: values[start:end] for name, values in lists.items()}
    mask = inside[start:end] & counted
    content = _unwrapped(line.get("content"))
    return {
        "step": step,
        "sample_id": f"{step}/{number}",
        "group_id": None if group_size is None else f"{step}/{number // group_size}",
        "prompt_hash": prompt_hash(whole_ids(ids[:start])),
        "prompt_len": start,
        "response_len": end - start,
        "reward": _number(line["rewards"]),
        "advantage": constant(answer.get("advantages"), mask),
        "response": content if isinstance(content, str) else None,
        "token_ids": whole_ids(answer["token_ids"]),
        "loss_mask": mask,
        "logp_rollout": answer["generation_logprobs"],
        "logp_train": answer["prev_logprobs"],
        "advantages": answer.get("advantages"),
        "logp_semantics": "unknown",
    }


def _unwrapped(value: Any) -> Any:
    while isinstance(value, list) and len(value) == 1 and isinstance(value[0], list | str):
        value = value[0]
    return value


def _number(value: Any) -> float:
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return float(value)
