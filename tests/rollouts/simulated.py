"""A simulated run: an engine and a trainer with known distributions, and every way the two can part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ckptaudit.rollouts.measure import Rollouts
from ckptaudit.rollouts.rows import batch_of, prompt_hash
from ckptaudit.rollouts.table import SCHEMA

VOCABULARY = 500
SHARPNESS = 3.0
"""Deviation of the logits, at which the entropy is about 1.1 nats once the leading logit is lifted."""


@dataclass(frozen=True)
class Engine:
    """How the engine samples and what it logs."""

    noise: float = 0.05
    temperature: float = 1.0
    logged_temperature: float = 1.0
    top_p: float = 1.0
    renormalised: bool = True


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def trainer_logits(rng: np.random.Generator, tokens: int) -> np.ndarray:
    logits = rng.normal(0, SHARPNESS, (tokens, VOCABULARY))
    logits[:, 0] += rng.uniform(8, 15, tokens)
    return logits


def cut(logs: np.ndarray, top_p: float) -> np.ndarray:
    """Log-probabilities with everything outside the nucleus at -inf, not renormalised."""
    order = np.argsort(-logs, axis=-1)
    sorted_p = np.exp(np.take_along_axis(logs, order, -1))
    inside = np.cumsum(sorted_p, axis=-1) - sorted_p < top_p
    kept = np.full_like(logs, -np.inf)
    np.put_along_axis(kept, order, np.where(inside, np.take_along_axis(logs, order, -1), -np.inf), -1)
    return kept


def sampled(rng: np.random.Generator, tokens: int, engine: Engine) -> dict[str, np.ndarray]:
    """Token ids, both log-probabilities and the trainer's entropy, each of shape (tokens,)."""
    logits = trainer_logits(rng, tokens)
    noisy = logits + engine.noise * rng.normal(size=logits.shape)
    drawn_from = log_softmax(noisy / engine.temperature)
    logged = log_softmax(noisy / engine.logged_temperature)
    if engine.top_p < 1:
        drawn_from = cut(drawn_from, engine.top_p)
        drawn_from -= np.log(np.exp(drawn_from).sum(axis=-1, keepdims=True))
        logged = drawn_from if engine.renormalised else logged
    ids = (drawn_from + rng.gumbel(size=logits.shape)).argmax(axis=-1)
    logs = log_softmax(logits)
    rows = np.arange(tokens)
    entropy = -(np.exp(logs) * logs).sum(axis=-1)
    return {"token_ids": ids, "logp_rollout": logged[rows, ids], "logp_train": logs[rows, ids], "entropy": entropy}


def healthy_rewards(rng: np.random.Generator, groups: int, size: int, chance: float) -> np.ndarray:
    return (rng.random((groups, size)) < chance).astype(float) + rng.normal(0, 0.05, (groups, size))


def run_rows(
    *,
    steps: int = 12,
    groups: int = 12,
    size: int = 8,
    length: int = 32,
    engine: Engine | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """A healthy run of TRL's convention, unless the engine says otherwise; `length` is the mean."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for step in range(steps):
        rewards = healthy_rewards(rng, groups, size, 0.3 + 0.4 * step / steps)
        advantages = (rewards - rewards.mean(1, keepdims=True)) / (rewards.std(1, ddof=1, keepdims=True) + 1e-4)
        lengths = rng.integers(length // 2, length * 3 // 2 + 1, groups * size)
        tokens = sampled(rng, int(lengths.sum()), engine or Engine())
        ends = np.cumsum(lengths)
        for place, (start, end) in enumerate(zip(ends - lengths, ends, strict=True)):
            group, member = divmod(place, size)
            lists = {name: values[start:end] for name, values in tokens.items()}
            accuracy = float(rewards[group, member] > 0.5)
            rows.append(
                {
                    "step": step,
                    "group_id": f"{step}/{group}",
                    "sample_id": f"{step}/{group}/{member}",
                    "version_first": step,
                    "version_last": step,
                    "version_train": step,
                    "prompt_hash": prompt_hash(f"question {step} {group}"),
                    "prompt": f"question {step} {group}",
                    "prompt_len": 8,
                    "response_len": int(end - start),
                    "truncated": False,
                    "stop_reason": "stop",
                    "reward": rewards[group, member],
                    "rewards": [("accuracy", accuracy), ("format", 1.0 if member else 0.5)],
                    "advantage": advantages[group, member],
                    "response": " ".join(map(str, lists["token_ids"])),
                    "loss_mask": np.ones(end - start, dtype=bool),
                    "logp_new": lists["logp_train"] + rng.normal(0, 0.02, end - start),
                    "logp_semantics": "raw",
                    **lists,
                }
            )
    return rows


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    from pathlib import Path

    return pa.Table.from_batches([batch_of(rows, Path("simulated"), "simulated")], SCHEMA)


def rollouts_of(table: pa.Table) -> Rollouts:
    """A table in memory, as what was opened; all-null columns count as not logged."""
    there = frozenset(name for name in table.schema.names if table.column(name).null_count < table.num_rows)

    def batches(columns: Any) -> Any:
        names = [
            n for n in table.schema.names if n in there and (n in set(columns) or not SCHEMA.field(n).nullable)
        ]
        return iter(table.select(names).combine_chunks().to_batches(max_chunksize=64))

    return Rollouts("simulation", "simulated", there, {}, True, batches)
