"""What the answers look like: cut off, empty, in loops, how long, how certain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.moments import Array, ClusteredMean, Furthest
from ckptaudit.rollouts.readings import Metric, Per, Reading, Scale, estimate, exact, step_subject, unjudged
from ckptaudit.rollouts.repetition import loops, packed_well, text_loops, token_tails
from ckptaudit.rollouts.run import RunSoFar, tenths

if TYPE_CHECKING:
    from ckptaudit.rollouts.batches import StepRows


def _metric(
    name: str,
    unit: str,
    formula: str,
    source: str,
    scale: Scale = "share",
    per: tuple[Per, ...] = ("step",),
    **more: str,
) -> Metric:
    needs, rests_on = tuple(more.get("needs", "").split()), tuple(more.get("rests_on", "").split())
    return Metric(
        name=name, unit=unit, formula=formula, source=source, scale=scale, per=per, needs=needs, rests_on=rests_on
    )


TRUNCATED = _metric(
    "truncated_share", "1", "P(cut off at the limit of length); over the run the median of the last tenth of steps",
    "verl response_length/clip_ratio, TRL completions/clipped_ratio", per=("step", "run"),
)  # fmt: skip
EMPTY = _metric("empty_share", "1", "P(no token, or only white space)", "prime-rl empty_rollouts")
REPETITION = _metric(
    "repetition_share", "1",
    "P(the answer ends in four or more copies of a block, at least 20 entries, or its text packs over tenfold)",
    "slime repetition_frac",
)  # fmt: skip
LENGTH = _metric("response_length", "tokens", "mean length of the responses", "verl response_length/mean", "size")
MEDIAN = _metric(
    "median_response_length", "tokens", "median length of the responses", "all trainers log it", "size"
)
REWARD = _metric(
    "reward_mean", "1", "mean reward over samples", "verl critic/score/mean, TRL reward", "size", needs="reward"
)
ENTROPY = _metric(
    "entropy_mean", "nat", "mean entropy of the trainer's distribution over tokens",
    "verl actor/entropy, TRL entropy", "size", needs="entropy",
)  # fmt: skip
LENGTH_GROWTH = _metric(
    "length_growth", "1", "max(q, 1 / q), q = median length of the last tenth of steps / of the first tenth",
    "ours", "size", ("run",), rests_on="median_response_length",
)  # fmt: skip
METRICS = (TRUNCATED, EMPTY, REPETITION, LENGTH, MEDIAN, REWARD, ENTROPY, LENGTH_GROWTH)


def begin_step(facts: RunFacts, wanted: frozenset[str]) -> Answers:
    """The answers of a step."""
    return Answers(facts, wanted)


class Answers:
    """One hit or number for each sample of the step, and the sum of entropies."""

    def __init__(self, facts: RunFacts, wanted: frozenset[str]) -> None:
        self._limit, self._wanted = facts.max_response_length, wanted
        self._hits: dict[str, list[Array]] = {name: [] for name in (TRUNCATED.name, EMPTY.name, REPETITION.name)}
        self._worst = {name: Furthest() for name in self._hits}
        self._lengths: list[Array] = []
        self._rewards: list[Array] = []
        self._entropy = ClusteredMean()

    def add(self, rows: StepRows) -> None:
        """Take in some rows."""
        self._lengths.append(rows.response_lengths)
        self._rewards.append(rows.numbers("reward"))
        found = {TRUNCATED.name: _truncated(rows, self._limit), EMPTY.name: _empty(rows)}
        if REPETITION.name in self._wanted:
            found[REPETITION.name] = _repeated(rows)
        for name, hits in found.items():
            known = ~np.isnan(hits)
            self._hits[name].append(hits[known])
            self._worst[name].add(hits[known], rows.names[known])
        if ENTROPY.name in self._wanted:
            tokens = rows.tokens("entropy")
            if tokens is not None and tokens.count:
                self._entropy.add(tokens.by_sequence(tokens.values["entropy"]), tokens.counts)

    def readings(self, step: int) -> Iterator[Reading]:
        """Shares and means of the step."""
        subject = step_subject(step)
        for metric in (TRUNCATED, EMPTY, REPETITION):
            hits = np.concatenate([np.zeros(0), *self._hits[metric.name]])
            if len(hits):
                worst = self._worst[metric.name].names
                yield _mean(metric, subject, hits, worst)
        lengths, rewards = np.concatenate(self._lengths), np.concatenate(self._rewards)
        lengths, rewards = lengths[np.isfinite(lengths)], rewards[np.isfinite(rewards)]
        if len(lengths):
            yield _mean(LENGTH, subject, lengths)
            yield exact(MEDIAN, subject, float(np.median(lengths)), len(lengths))
        if len(rewards):
            yield _mean(REWARD, subject, rewards)
        if self._entropy.count:
            entropy = self._entropy
            yield estimate(ENTROPY, subject, entropy.mean, entropy.standard_error, int(entropy.count))


def _mean(metric: Metric, subject: str, values: Array, worst: tuple[str, ...] = ()) -> Reading:
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
    return estimate(metric, subject, float(values.mean()), error, len(values), worst)


def _truncated(rows: StepRows, limit: int | None) -> Array:
    """1 where a sample was cut off, 0 where not, NaN where nothing tells."""
    known = rows.numbers("truncated")
    if limit is not None:
        lengths = rows.response_lengths
        known = np.where(np.isnan(known) & np.isfinite(lengths), (lengths >= limit).astype(float), known)
    return known


def _empty(rows: StepRows) -> Array:
    lengths = rows.response_lengths
    empty = np.where(np.isnan(lengths), np.nan, (lengths == 0).astype(float))
    if not rows.has("response"):
        return empty
    texts = rows.rows.column("response").to_pylist()
    blank = np.array([np.nan if text is None else float(not text.strip()) for text in texts])
    return np.asarray(np.fmax(empty, blank))


def _repeated(rows: StepRows) -> Array:
    if rows.has("token_ids") and rows.rows.column("token_ids").null_count < rows.count:
        sizes = rows.lengths("token_ids")
        flat = rows.rows.column("token_ids").flatten().to_numpy(zero_copy_only=False)
        tails = token_tails(flat, np.maximum(sizes, 0))
        found = loops(tails, sizes)
        if rows.has("response"):
            found |= packed_well(rows.rows.column("response").to_pylist(), found)
        return np.where(sizes < 0, np.nan, found.astype(float))
    if rows.has("response"):
        texts = rows.rows.column("response").to_pylist()
        missing = np.array([text is None for text in texts])
        return np.where(missing, np.nan, text_loops(texts).astype(float))
    return np.full(rows.count, np.nan)


def run_readings(run: RunSoFar) -> Iterator[Reading]:
    """How many are cut off at the end of the run, and how the length has changed."""
    truncated = run.values(TRUNCATED.name)
    if TRUNCATED.name in run.wanted and truncated:
        yield exact(
            TRUNCATED, "run", tenths(truncated)[1], len(truncated), remark="median of the last tenth of steps"
        )
    if LENGTH_GROWTH.name in run.wanted:
        yield _growth(run.values(MEDIAN.name))


def _growth(lengths: list[float]) -> Reading:
    if len(lengths) < 2:
        return unjudged(LENGTH_GROWTH, "run", "fewer than two steps have lengths", len(lengths))
    first, last = tenths(lengths)
    remark = f"from {first:g} to {last:g} tokens"
    if min(first, last) <= 0:
        return exact(LENGTH_GROWTH, "run", 1.0 if first == last else np.inf, len(lengths), remark=remark)
    return exact(LENGTH_GROWTH, "run", max(last / first, first / last), len(lengths), remark=remark)
