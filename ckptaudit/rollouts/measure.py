"""One pass over the table: every wanted quantity of every step, then those of the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from ckptaudit.errors import MeasurementError, printable
from ckptaudit.rollouts.batches import StepRows, by_step
from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.kept_memory import keep_freed_memory
from ckptaudit.rollouts.prefetch import read_ahead
from ckptaudit.rollouts.quantities import ContinuedState, StepState, families, metrics
from ckptaudit.rollouts.quantities.mismatch import IDENTICAL
from ckptaudit.rollouts.readings import NONE_HERE, Metric, Reading, exact, step_subject, unjudged
from ckptaudit.rollouts.run import RunSoFar

WORKERS = 2
SIDE_BY_SIDE = 2**18
"""Bytes of rows from which families are given them side by side."""
_USES = {
    "misaligned_count": ("token_ids", "loss_mask", "logp_train", "logp_ref", "logp_new", "advantages", "entropy"),
    "truncated_share": ("truncated", "response_len", "token_ids", "logp_rollout"),
    "empty_share": ("response_len", "response", "token_ids"),
    "repetition_share": ("token_ids", "response"),
    "response_length": ("response_len", "token_ids"),
    "median_response_length": ("response_len", "token_ids"),
    "duplicate_share": ("token_ids", "response"),
    "one_answer_share": ("token_ids", "response"),
    "length_reward_correlation": ("response_len", "token_ids"),
    "reference_advantage_error": ("stop_reason", "response_len", "token_ids"),
    "advantage_not_finite_count": ("loss_mask",),
    "advantage_error": ("response_len", "token_ids"),
    "advantage_sign_flips": ("response_len", "token_ids"),
    "reversed_group_share": ("response_len", "token_ids"),
    "advantage_bound": ("response_len", "token_ids"),
    "advantage_group_sum": ("response_len", "token_ids"),
    "prefix_mismatch_count": ("logp_rollout",),
    "group_prompt_count": ("prompt_hash",),
}
"""Columns that a metric uses where they are there, beside those that it needs."""


_LOGGED = {
    "mismatch_k1": "mismatch_k1", "mismatch_k3": "mismatch_k3", "mismatch_abs": "mismatch_abs",
    "mismatch_mult": "mismatch_mult", "truncated_share": "truncated_share", "zero_variance_share": "zero_var_share",
    "reward_mean": "reward_mean", "response_length": "len_mean", "clip_share": "clip_share",
}  # fmt: skip
"""Metrics of steps that are taken from the trainer's own curve where the rollouts do not hold them."""
IDENTICAL_AT = {"mismatch_k1": 0.0, "mismatch_k3": 0.0, "mismatch_abs": 0.0, "mismatch_mult": 1.0}


@dataclass(frozen=True)
class Rollouts:
    """A run's rollouts: which columns there are, which option would record the others, and how to read them.

    `whole_steps` is false where a step's rows may be the last of several batches, so that its curves say more.
    `open(columns)` gives record batches in the order of steps, of at least the columns asked for that exist.
    """

    trainer: str
    run: str
    columns: frozenset[str]
    missing: Mapping[str, str]
    whole_steps: bool = True
    open: Callable[[Iterable[str]], Iterator[pa.RecordBatch]] = field(repr=False, default=lambda columns: iter(()))


def measure(
    table: Rollouts,
    facts: RunFacts,
    wanted: Iterable[str],
    *,
    scalars: Mapping[str, Mapping[int, float]] | None = None,
    checkpoint_steps: Sequence[int] = (),
) -> Iterator[Reading]:
    """Readings of the wanted metrics, step by step, and of the run at the end.

    A metric whose columns were not logged gives one reading of the run without a value. Memory is bounded by the
    samples of one step, and by the few numbers of every step that readings of the run rest on. Raises
    MeasurementError for an unknown metric, and RolloutError where the table cannot be read.
    """
    names = _known(wanted)
    curves = scalars or {}
    lacking = {name: reason for name in names if (reason := _lacks(metrics()[name], table, curves))}
    able = frozenset(names) - lacking.keys()
    needed = able | _steps_behind(able)
    run = RunSoFar(
        facts,
        scalars=curves,
        whole_steps=table.whole_steps,
        checkpoint_steps=checkpoint_steps,
        wanted=able,
        kept=_steps_behind(able) | {name for name in needed if "run" in metrics()[name].per},
        pooled=frozenset(name for name in needed if metrics()[name].pooled),
        in_detail=frozenset(name for name in needed if metrics()[name].in_detail),
    )
    yield from (unjudged(metrics()[name], "run", reason) for name, reason in lacking.items())
    for step, reading in _steps(table, facts, needed, run):
        run.take(step, reading)
        if reading.metric in able and "step" in metrics()[reading.metric].per:
            yield reading
    for step, reading in _logged(needed, run):
        run.take(step, reading)
        if reading.metric in able:
            yield reading
    given: set[str] = set()
    for family in families():
        if hasattr(family, "run_readings") and any(metric.name in able for metric in family.METRICS):
            with _overflow_allowed():
                own = list(family.run_readings(run))
            given |= {reading.metric for reading in own}
            yield from own
    for metric in (metrics()[name] for name in sorted(able - given - run.seen)):
        if metric.of_what:
            yield unjudged(metric, "run", f"{NONE_HERE}{metric.of_what}")


def not_measurable(
    table: Rollouts, scalars: Mapping[str, Mapping[int, float]] | None = None
) -> dict[str, list[str]]:
    """Metrics that lack columns, by the sentence that says which and how to record them."""
    found: dict[str, list[str]] = {}
    for name, metric in sorted(metrics().items()):
        reason = _lacks(metric, table, scalars or {})
        if reason:
            found.setdefault(reason, []).append(name)
    return found


def _known(wanted: Iterable[str]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(wanted))
    for name in names:
        if name not in metrics():
            raise MeasurementError(
                f"unknown metric {printable(name)}; known of rollouts are {', '.join(sorted(metrics()))}."
            )
    return names


def _lacks(metric: Metric, table: Rollouts, curves: Mapping[str, Mapping[int, float]]) -> str:
    behind = [name for name in metric.rests_on if name != metric.name] or [metric.name]
    if all(_LOGGED.get(name) in curves for name in behind):
        return ""
    missing = [column for column in metric.needs if column not in table.columns]
    if not missing or (metric.one_suffices and len(missing) < len(metric.needs)):
        return ""
    remedy = table.missing.get(missing[0], "record it with the recorder of ckptaudit.integrations")
    return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not logged by {table.trainer}: {remedy}"


def _steps_behind(names: frozenset[str]) -> frozenset[str]:
    return frozenset(behind for name in names for behind in metrics()[name].rests_on)


def _columns(names: frozenset[str]) -> list[str]:
    columns = {column for name in names for column in (*metrics()[name].needs, *_USES.get(name, ()))}
    if columns & {"logp_rollout", "logp_train", "logp_new", "entropy"}:
        columns.add("loss_mask")
    return sorted(columns)


def _steps(
    table: Rollouts, facts: RunFacts, needed: frozenset[str], run: RunSoFar
) -> Iterator[tuple[int, Reading]]:
    active = [
        family
        for family in families()
        if hasattr(family, "begin_step") and any(metric.name in needed for metric in family.METRICS)
    ]
    states: list[StepState] = []
    keep_freed_memory()
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="ckptaudit-rollouts") as pool:
        for step, rows in by_step(read_ahead(table.open(_columns(needed)))):
            if not run.steps or step != run.steps[-1]:
                yield from _closed(run, states, needed)
                run.steps.append(step)
                states = _continued([family.begin_step(facts, needed) for family in active], states)
            _add(pool, states, rows)
    yield from _closed(run, states, needed)


def _continued(states: list[StepState], before: list[StepState]) -> list[StepState]:
    """The states of a step, which go on from those of the step before where these ask for it."""
    for state, earlier in zip(states, before, strict=False):  # nothing comes before the first step
        if isinstance(state, ContinuedState):
            state.follow(earlier)
    return states


def _add(pool: ThreadPoolExecutor, states: list[StepState], rows: StepRows) -> None:
    """Give rows to all states; side by side where there is enough to do, as NumPy works without Python's lock."""
    if rows.rows.nbytes < SIDE_BY_SIDE or len(states) < 2:
        for state in states:
            _take(state, rows)
        return
    with _overflow_allowed():
        rows.prepare()
    list(pool.map(lambda state: _take(state, rows), states))


def _take(state: StepState, rows: StepRows) -> None:
    with _overflow_allowed():
        state.add(rows)


def _overflow_allowed() -> np.errstate:
    """Overflow to infinity without a warning, which would end the audit where warnings are errors.

    A reward of 1e200 has no square in float64: its variance is infinite, and what rests on it has no number. Holds
    for one thread, and must not enclose a `yield`.
    """
    return np.errstate(over="ignore", invalid="ignore")


def _logged(needed: frozenset[str], run: RunSoFar) -> Iterator[tuple[int, Reading]]:
    """What only the trainer's curves say of the steps."""
    for name in sorted(needed & _LOGGED.keys() - run.seen):
        curve = run.scalars.get(_LOGGED[name], {})
        identical = name.startswith("mismatch") and not any(value != IDENTICAL_AT[name] for value in curve.values())
        for step in sorted(curve):
            subject, value = step_subject(step), curve[step]
            if identical or not math.isfinite(value):
                yield step, unjudged(metrics()[name], subject, IDENTICAL if identical else f"logged as {value}")
            else:
                yield step, exact(metrics()[name], subject, value, 0, (), "as the trainer logged it")


def _closed(run: RunSoFar, states: list[StepState], needed: frozenset[str]) -> Iterator[tuple[int, Reading]]:
    for state in states:
        with _overflow_allowed():
            own = list(state.readings(run.steps[-1]))
        for reading in own:
            if reading.metric in needed:
                yield run.steps[-1], reading
