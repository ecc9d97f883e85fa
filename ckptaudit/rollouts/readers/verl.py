"""verl: `{trainer.rollout_data_dir}/{step}.jsonl` and `{trainer.validation_data_dir}/{step}.jsonl`.

One line a sample: input, output, score, step, the newer trainer's uid, and what the reward function returned
beside the score. Special tokens are left out of the texts. A folder named val, eval or
the like (`validation_data`) holds evaluation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from ckptaudit.errors import RolloutError, printable
from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.files import numbered
from ckptaudit.rollouts.lines import first_line_of, json_lines
from ckptaudit.rollouts.rows import ALWAYS, Row, batches_of, prompt_hash

NAME = "verl"
FILES = "{step}.jsonl with input, output, score"
COLUMNS = frozenset(ALWAYS | {"group_id", "prompt", "response", "reward", "rewards"})
_RECORDER = "verl keeps it in memory; attach VerlRecorder of ckptaudit.integrations"
MISSING = {
    "logp_rollout": f"{_RECORDER}, with actor_rollout_ref.rollout.calculate_log_probs=True",
    "logp_train": _RECORDER,
    "advantage": _RECORDER,
    "entropy": _RECORDER,
    "response_len": _RECORDER,
    "group_id": "use a verl whose rollout dump has uid",
}
_KNOWN = {"input", "output", "score", "step", "uid", "gts", "request_id"}
_EVALUATION = re.compile(r"(val|eval|validation|evaluation|valid)([^a-z]|$)")
"""Names of folders that hold answers to questions which nothing was trained on."""
_PATTERN = r"(\d{1,18})\.jsonl"


def recognises(folder: Path) -> bool:
    """Whether files are named by step and their lines hold input, output and score."""
    files = numbered(folder, _PATTERN)
    line = first_line_of(path for _, path in files)
    return line is not None and {"input", "output", "score"} <= line.keys()


def files(folder: Path) -> list[Path]:
    """The files that are read, in order."""
    return [path for _, path in numbered(folder, _PATTERN)]


def open(folder: Path, facts: RunFacts) -> Iterator[pa.RecordBatch]:
    """Step by step."""
    split = "eval" if _EVALUATION.match(folder.name.lower()) else "train"
    for step, path in numbered(folder, _PATTERN):
        yield from batches_of(_rows(path, step, split), path, folder.name)


def _rows(path: Path, step: int, split: str) -> Iterator[Row]:
    scored, last = False, -1
    for number, line in enumerate(json_lines(path, dict[str, Any])):
        prompt, answer = line.get("input"), line.get("output")
        if not isinstance(prompt, str) or not isinstance(answer, str):
            raise RolloutError(f"{printable(path)}: line {number + 1} has no input and output as text.")
        scored, last = scored or line.get("score") is not None, number
        digest = prompt_hash(prompt)
        yield {
            "step": step,
            "split": split,
            "sample_id": str(line.get("request_id") or f"{step}/{number}"),
            "group_id": str(line["uid"]) if line.get("uid") is not None else digest.hex(),
            "prompt_hash": digest,
            "prompt": prompt,
            "response": answer,
            "reward": line.get("score"),
            "rewards": numbers_of(line, _KNOWN),
        }
    if last >= 0 and not scored:
        raise RolloutError(
            f"{printable(path)}: score is null from line 1 on, and verl writes one for each sample; the file is "
            "damaged."
        )


def numbers_of(line: dict[str, Any], known: set[str]) -> list[tuple[str, float]] | None:
    """The line's other entries that are numbers: the reward function's components."""
    found = [
        (name, float(value))
        for name, value in line.items()
        if name not in known and isinstance(value, int | float) and math.isfinite(float(value))
    ]
    return found or None
