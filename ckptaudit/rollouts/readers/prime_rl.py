"""prime-rl: `{output_dir}/token_exports/step_{N}/rank_{R}.jsonl`, written with enable_token_export.

One line is one unpadded sequence; the answer begins at the first true entry of loss_mask. What was not finite
stands as null, and becomes NaN here, so that it is seen. Rewards and groups are not in it.
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
from ckptaudit.rollouts.lines import json_lines
from ckptaudit.rollouts.rows import ALWAYS, Row, batches_of, constant, prompt_hash, whole_ids

NAME = "prime-rl"
FILES = "token_exports/step_*/rank_*.jsonl"
COLUMNS = frozenset(
    ALWAYS
    | {"logp_semantics", "prompt_len", "response_len", "advantage"}
    | {"token_ids", "loss_mask", "logp_rollout", "logp_train", "advantages", "entropy"}
)
_ROLLOUTS = "the token export has no rewards or groups; they stand in prime-rl's traces, which are not read"
MISSING = {"reward": _ROLLOUTS, "group_id": _ROLLOUTS, "version_first": "the token export has no weight versions"}


def _folder(folder: Path) -> Path:
    return folder / "token_exports" if (folder / "token_exports").is_dir() else folder


def _files(folder: Path) -> Iterator[tuple[int, int, Path]]:
    for step, inner in numbered(_folder(folder), r"step_(\d{1,18})"):
        for rank, path in numbered(inner, r"rank_(\d{1,9})\.jsonl"):
            yield step, rank, path


def recognises(folder: Path) -> bool:
    """Whether there is a file of that name."""
    return next(_files(folder), None) is not None


def files(folder: Path) -> list[Path]:
    """The files that are read, in order."""
    return [path for _, _, path in _files(folder)]


def open(folder: Path, facts: RunFacts) -> Iterator[pa.RecordBatch]:
    """Step by step, and rank by rank in each."""
    for step, rank, path in _files(folder):
        yield from batches_of(_rows(path, step, rank), path, folder.name)


def _rows(path: Path, step: int, rank: int) -> Iterator[Row]:
    for number, line in enumerate(json_lines(path, dict[str, Any])):
        try:
            yield _row(line, step, f"{step}/{rank}/{number}")
        except (TypeError, ValueError, LookupError, OverflowError) as error:
            raise RolloutError(
                f"{printable(path)}: line {number + 1} is no sequence of prime-rl ({printable(str(error)[:120])})."
            ) from error


def _row(line: dict[str, Any], step: int, name: str) -> Row:
    ids, inside = np.asarray(line["token_ids"], dtype=np.int64), np.asarray(line["loss_mask"])
    if inside.dtype.kind not in "bi":
        raise ValueError("loss_mask holds no truth values")
    inside = inside.astype(bool)
    start = int(inside.argmax()) if inside.any() else len(ids)
    mask = inside[start:]
    advantages = _part(line, "advantages", start)
    return {
        "step": step,
        "sample_id": name,
        "prompt_hash": prompt_hash(ids[:start]),
        "prompt_len": start,
        "response_len": len(ids) - start,
        "advantage": constant(advantages, mask),
        "token_ids": whole_ids(ids[start:]),
        "loss_mask": mask,
        "logp_rollout": _part(line, "inference_logprobs", start),
        "logp_train": _part(line, "trainer_logprobs", start),
        "advantages": advantages,
        "entropy": _part(line, "entropy", start),
        "logp_semantics": "unknown",
    }


def _part(line: dict[str, Any], name: str, start: int) -> np.ndarray | None:
    values = line.get(name)
    return None if values is None else np.asarray(values, dtype=np.float64)[start:]
