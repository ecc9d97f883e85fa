"""Samples of a run looked up again by name, with what was asked and answered cut to an excerpt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from ckptaudit.rollouts.excerpts import ANY, SampleExcerpt, cut
from ckptaudit.rollouts.measure import Rollouts

TOKENS = 24
"""Token ids that stand for a response of which no text was logged."""

COLUMNS = ("group_id", "reward", "advantage", "prompt", "response", "response_len", "token_ids")


def find_samples(
    table: Rollouts, named: Mapping[int, frozenset[str]], most: int = 3
) -> dict[tuple[int, str], list[SampleExcerpt]]:
    """By step and name, the sample of that name, or the first `most` of the group; of the step, for ANY.

    One pass, which ends when all have been found. Raises RolloutError where the log cannot be read.
    """
    found: dict[tuple[int, str], list[SampleExcerpt]] = {}
    left = {(step, name) for step, names in named.items() for name in names}
    for batch in table.open(COLUMNS) if left else ():
        for row, names in _rows(batch, named):
            for name in names:
                kept = found.setdefault((row["step"], name), [])
                if len(kept) < most:
                    kept.append(_excerpt(row))
                if len(kept) == most or name == row["sample_id"]:
                    left.discard((row["step"], name))
        if not left:
            break
    return found


def _rows(
    batch: pa.RecordBatch, named: Mapping[int, frozenset[str]]
) -> Iterator[tuple[dict[str, Any], frozenset[str]]]:
    """The batch's rows that are named, each with the names that mean it."""
    steps = batch.column("step").to_numpy()
    samples = batch.column("sample_id")
    groups = batch.column("group_id") if "group_id" in batch.schema.names else pa.nulls(batch.num_rows)
    for place, step in enumerate(steps.tolist()):
        if step in named:
            own = frozenset({ANY, samples[place].as_py(), groups[place].as_py()}) & named[step]
            if own:
                yield batch.slice(place, 1).to_pylist()[0], own


def _excerpt(row: Mapping[str, Any]) -> SampleExcerpt:
    response = row.get("response")
    if response is None and row.get("token_ids"):
        ids = row["token_ids"]
        more = f" and {len(ids) - TOKENS} more" if len(ids) > TOKENS else ""
        response = f"tokens {' '.join(map(str, ids[:TOKENS]))}{more}"
    return SampleExcerpt(
        step=row["step"],
        sample=cut(row["sample_id"]),
        group=cut(row.get("group_id") or ""),
        reward=row.get("reward"),
        advantage=row.get("advantage"),
        prompt=cut(row.get("prompt") or ""),
        response=cut(response or ""),
    )
