"""slime: `rollout_data/{id}.pt` and `train_data/{id}.pt` under --dump-details, joined sample by sample.

The rollout dump has the engine's log-probabilities, rewards, groups and weight versions; the training dump, of
every rank in a file or in files of their own, has the trainer's log-probabilities, entropies and advantages. Either
alone is read too. Sample `index` of the first is `sample_index` of the second. Pickles are read as data.
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
from ckptaudit.rollouts.pickled import archive_contents
from ckptaudit.rollouts.rows import ALWAYS, Row, batches_of, constant, prompt_hash, whole_ids

NAME = "slime"
FILES = "rollout_data/{id}.pt, train_data/{id}.pt"
COLUMNS = frozenset(
    ALWAYS
    | {"group_id", "version_first", "version_last", "logp_semantics"}
    | {"prompt_len", "response_len", "truncated", "stop_reason", "reward", "advantage", "prompt", "response"}
    | {"token_ids", "loss_mask", "logp_rollout", "logp_train", "logp_ref", "advantages", "entropy"}
)
_TRAIN = "pass --dump-details, or --save-debug-train-data beside --save-debug-rollout-data"
MISSING = {
    "logp_train": _TRAIN,
    "advantage": _TRAIN,
    "entropy": f"{_TRAIN}, of a slime that dumps it",
    "logp_rollout": "let the engine return log-probabilities, so that the rollout dump has rollout_log_probs",
    "group_id": "pass --save-debug-rollout-data; the training dump has no groups",
    "version_train": "slime does not log the version at the update",
    "logp_new": "slime does not dump the log-probabilities of the updated policy",
}
_PATTERN = r"(?:rollout_)?(\d{1,18})(?:_(?:rank_?)?\d{1,6})?\.pt"


def _dumps(folder: Path, kind: str) -> dict[int, list[Path]]:
    found: dict[int, list[Path]] = {}
    for number, path in numbered(folder / kind, _PATTERN):
        found.setdefault(number, []).append(path)
    return found


def recognises(folder: Path) -> bool:
    """Whether either folder of dumps is there."""
    return bool(_dumps(folder, "rollout_data") or _dumps(folder, "train_data"))


def files(folder: Path) -> list[Path]:
    """The files that are read, in order."""
    kinds = [_dumps(folder, kind) for kind in ("rollout_data", "train_data")]
    return [path for dumps in kinds for paths in dumps.values() for path in paths]


def open(folder: Path, facts: RunFacts) -> Iterator[pa.RecordBatch]:
    """Rollout by rollout."""
    rollouts, trained = _dumps(folder, "rollout_data"), _dumps(folder, "train_data")
    for number in sorted(rollouts.keys() | trained.keys()):
        by_index = {s["sample_index"]: s for path in trained.get(number, ()) for s in _samples(path)}
        generated = [sample for path in rollouts.get(number, ()) for sample in _samples(path)]
        rows = _joined(generated, by_index, number) if generated else _alone(by_index, number)
        source = (rollouts.get(number) or trained[number])[0]
        yield from batches_of(_guarded(rows, source), source, folder.name)


def _samples(path: Path) -> list[dict[str, Any]]:
    regular_file(path)
    contents = archive_contents(path)
    samples = contents.get("samples") if isinstance(contents, dict) else None
    if not isinstance(samples, list) or not all(isinstance(sample, dict) for sample in samples):
        raise RolloutError(f"{printable(path)}: no list of samples in it, as slime's dumps have.")
    return samples


def _guarded(rows: Iterator[Row], source: Path) -> Iterator[Row]:
    try:
        yield from rows
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
        raise RolloutError(
            f"{printable(source)}: a sample is not laid out as slime writes it ({printable(str(error)[:120])})."
        ) from error


def _joined(generated: list[dict[str, Any]], trained: dict[int, dict[str, Any]], step: int) -> Iterator[Row]:
    for sample in generated:
        answer = int(sample["response_length"])
        tokens = np.asarray(sample["tokens"], dtype=np.int64)
        versions = sample.get("weight_versions") or []
        status = _status(sample.get("status"))
        yield {
            **_trained(trained.get(sample["index"], {}), sample.get("loss_mask"), answer),
            "step": step,
            "sample_id": f"{step}/{sample['index']}",
            "group_id": None if sample.get("group_index") is None else str(sample["group_index"]),
            "version_first": _version(versions[:1]),
            "version_last": _version(versions[-1:]),
            "prompt_hash": prompt_hash(tokens[: len(tokens) - answer]),
            "prompt_len": len(tokens) - answer,
            "response_len": answer,
            "truncated": status == "truncated" if status else None,
            "stop_reason": status,
            "reward": _reward(sample.get("reward")),
            "prompt": sample["prompt"] if isinstance(sample.get("prompt"), str) else None,
            "response": sample["response"] if isinstance(sample.get("response"), str) else None,
            "token_ids": whole_ids(tokens[len(tokens) - answer :]),
            "logp_rollout": _list(sample.get("rollout_log_probs")),
        }


def _alone(trained: dict[int, dict[str, Any]], step: int) -> Iterator[Row]:
    """Samples of a training dump without its rollouts."""
    for index, sample in sorted(trained.items()):
        answer, tokens = int(_first(sample["response_lengths"])), np.asarray(sample["tokens"], dtype=np.int64)
        yield {
            **_trained(sample, None, answer),
            "step": step,
            "sample_id": f"{step}/{index}",
            "prompt_hash": prompt_hash(tokens[: len(tokens) - answer]),
            "prompt_len": len(tokens) - answer,
            "response_len": answer,
            "reward": _reward(sample.get("raw_reward", sample.get("rewards"))),
            "token_ids": whole_ids(tokens[len(tokens) - answer :]),
            "logp_rollout": _list(sample.get("rollout_log_probs")),
        }


def _trained(sample: dict[str, Any], loss_mask: Any, answer: int) -> dict[str, Any]:
    """The columns of the training dump; the mask of the rollout dump where it has none."""
    given = sample.get("loss_masks", loss_mask)
    mask = np.ones(answer, dtype=bool) if given is None else np.asarray(given, dtype=np.float64) > 0
    advantages = _list(sample.get("advantages"))
    return {
        "advantage": constant(advantages, mask),
        "loss_mask": mask,
        "logp_train": _list(sample.get("log_probs")),
        "logp_ref": _list(sample.get("ref_log_probs")),
        "advantages": advantages,
        "entropy": _list(sample.get("entropy")),
        "logp_semantics": "unknown",
    }


def _list(values: Any) -> np.ndarray | None:
    return None if values is None else np.asarray(values, dtype=np.float64).reshape(-1)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list | tuple | np.ndarray) else value


def _version(versions: list[Any]) -> int | None:
    return int(versions[0]) if versions and str(versions[0]).isdigit() else None


def _status(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _reward(value: Any) -> float | None:
    value = _first(value)
    return float(value) if isinstance(value, int | float) else None
