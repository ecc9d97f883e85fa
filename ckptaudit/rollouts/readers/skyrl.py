"""SkyRL: `dumped_data/global_step_{N}_training_input.pkl`, written with trainer.dump_data_batch.

A pickled batch of left-padded tensors, read as data. Rewards and uids are taken out of it before it is written, so
checks of groups cannot be judged. Log-probabilities belong to the last tokens of each sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ckptaudit.errors import RolloutError, printable
from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.files import numbered, regular_file
from ckptaudit.rollouts.pickled import pickle_contents, saved_bytes
from ckptaudit.rollouts.rows import ALWAYS, Row, batches_of, constant, prompt_hash, whole_ids

NAME = "skyrl"
FILES = "dumped_data/global_step_*_training_input.pkl"
COLUMNS = frozenset(
    ALWAYS
    | {"logp_semantics", "prompt_len", "response_len", "advantage"}
    | {"token_ids", "loss_mask", "logp_rollout", "logp_train", "logp_ref", "advantages"}
)
_REMOVED = "SkyRL takes rewards and uids out of its dump"
MISSING = {
    "reward": _REMOVED,
    "group_id": _REMOVED,
    "entropy": "SkyRL does not dump it",
    "version_first": "SkyRL does not dump weight versions",
    "logp_rollout": "set generator.sampling_params.logprobs, so that the engine returns them",
}
CLASSES = frozenset(
    f"{module}.training_batch.{name}"
    for module in ("skyrl_train", "skyrl.train", "skyrl.backends.skyrl_train")
    for name in ("TrainingInputBatch", "TensorBatch")
)
_PATTERN = r"global_step_(\d{1,18})_training_input\.pkl"


def _folder(folder: Path) -> Path:
    return folder / "dumped_data" if (folder / "dumped_data").is_dir() else folder


def recognises(folder: Path) -> bool:
    """Whether there is a file of that name."""
    return bool(numbered(_folder(folder), _PATTERN))


def files(folder: Path) -> list[Path]:
    """The files that are read, in order."""
    return [path for _, path in numbered(_folder(folder), _PATTERN)]


def open(folder: Path, facts: RunFacts) -> Iterator[pa.RecordBatch]:
    """Step by step."""
    for step, path in numbered(_folder(folder), _PATTERN):
        yield from batches_of(_rows(path, step), path, folder.name)


def _rows(path: Path, step: int) -> Iterator[Row]:
    regular_file(path)
    with path.open("rb") as file:
        contents = pickle_contents(file, path, CLASSES)
    saved = contents.get("batch_dict") if isinstance(contents, dict) else None
    if not isinstance(saved, dict) or "sequences" not in saved:
        raise RolloutError(f"{printable(path)}: no batch of SkyRL in it; its dumps hold batch_dict.")
    tensors = {name: saved_bytes(data, path) for name, data in saved.items() if isinstance(data, bytes)}
    try:
        for place in range(len(tensors["sequences"])):
            yield _row({name: values[place] for name, values in tensors.items() if values is not None}, step, place)
    except (TypeError, ValueError, LookupError, OverflowError) as error:
        raise RolloutError(
            f"{printable(path)}: its tensors are not laid out as SkyRL writes them ({printable(str(error)[:120])})."
        ) from error


def _row(sample: dict[str, Any], step: int, place: int) -> Row:
    attended = np.asarray(sample["attention_mask"]) > 0
    inside = np.asarray(sample["response_mask"]) > 0
    ids, width = np.asarray(sample["sequences"]), len(inside)
    answer, prompt = ids[-width:][inside], ids[:-width][attended[:-width]]
    loss = np.asarray(sample["loss_mask"])[inside] > 0

    def part(name: str) -> np.ndarray | None:
        return np.asarray(sample[name])[-width:][inside] if name in sample else None

    advantages = part("advantages")
    return {
        "step": step,
        "sample_id": f"{step}/{place}",
        "prompt_hash": prompt_hash(prompt),
        "prompt_len": len(prompt),
        "response_len": len(answer),
        "advantage": constant(advantages, loss),
        "token_ids": whole_ids(answer),
        "loss_mask": loss,
        "logp_rollout": part("rollout_logprobs"),
        "logp_train": part("action_log_probs"),
        "logp_ref": part("base_action_log_probs"),
        "advantages": advantages,
        "logp_semantics": "unknown",
    }
