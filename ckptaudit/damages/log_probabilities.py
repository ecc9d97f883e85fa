"""Damages to log-probabilities: values that cannot be, an engine that is apart from the trainer, heavy tails."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from ckptaudit.damages.columns import Array, lists, numbers, with_lists


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def changed_logps(table: pa.Table, side: str, change: Callable[[Array], Array]) -> pa.Table:
    flat, sizes = lists(table, side)
    return with_lists(table, side, change(flat.copy()), sizes)


def _log_ratio(table: pa.Table, change: Callable[[Array], Array]) -> pa.Table:
    """Change log pi_old - log mu by changing the trainer's side."""
    engine, sizes = lists(table, "logp_rollout")
    trainer, _ = lists(table, "logp_train")
    return with_lists(table, "logp_train", engine + change(trainer - engine), sizes)


def _positions(sizes: Array) -> Array:
    return np.asarray(np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes))


def progress(table: pa.Table) -> Array:
    """Where each row's step stands between the first, 0, and the last, 1."""
    places = np.unique(numbers(table, "step"), return_inverse=True)[1]
    return np.asarray(places / max(1, places.max()))


# Log-probabilities that cannot be.


def nan_logp(table: pa.Table) -> pa.Table:
    """One log-probability of the trainer is NaN."""
    return changed_logps(table, "logp_train", lambda flat: _set(flat, [len(flat) // 2], math.nan))


def positive_logp(table: pa.Table) -> pa.Table:
    """One log-probability of the engine is above 0."""
    return changed_logps(table, "logp_rollout", lambda flat: _set(flat, [len(flat) // 3], 0.3))


def unwritten_engine_logps(table: pa.Table) -> pa.Table:
    """Two in a hundred of the engine's log-probabilities were never written, and are 0."""
    return changed_logps(table, "logp_rollout", lambda flat: _set(flat, rng().random(len(flat)) < 0.02, 0.0))


def unwritten_logps(table: pa.Table) -> pa.Table:
    """A third of the log-probabilities is 0 on both sides."""
    hit = rng().random(len(lists(table, "logp_train")[0])) < 1 / 3
    for side in ("logp_rollout", "logp_train"):
        table = changed_logps(table, side, lambda flat: _set(flat, hit, 0.0))
    return table


def _set(flat: Array, where: Array | list[int], value: float) -> Array:
    flat[where] = value
    return flat


def short_logps(table: pa.Table) -> pa.Table:
    """One sample has a log-probability fewer than tokens."""
    flat, sizes = lists(table, "logp_train")
    end = int(sizes[0])
    return with_lists(table, "logp_train", np.delete(flat, end - 1), sizes - (np.arange(len(sizes)) == 0))


def long_mask(table: pa.Table) -> pa.Table:
    """One sample's loss mask is longer than its tokens."""
    flat, sizes = lists(table, "loss_mask")
    return with_lists(table, "loss_mask", np.insert(flat, 0, True), sizes + (np.arange(len(sizes)) == 0))


# Engine and trainer that are apart.


def other_weights(table: pa.Table) -> pa.Table:
    """The engine has other weights: noise of deviation 0.4 on the log-ratio, without bias."""
    return _log_ratio(table, lambda ratio: ratio + rng().normal(-0.08, 0.4, len(ratio)))


def shifted_by_one(table: pa.Table) -> pa.Table:
    """The trainer's log-probabilities stand one token too late."""
    return changed_logps(table, "logp_train", lambda flat: np.roll(flat, 1))


def swapped_sequences(table: pa.Table) -> pa.Table:
    """A tenth of the engine's lists belongs to other samples, as far as lengths allow."""

    def change(flat: Array) -> Array:
        hit = np.repeat(rng().random(len(sizes)) < 0.1, sizes)
        flat[hit] = np.roll(flat[hit], int(sizes.mean()))
        return flat

    sizes = lists(table, "logp_rollout")[1]
    return changed_logps(table, "logp_rollout", change)


def renormalised_engine(table: pa.Table) -> pa.Table:
    """The engine's log-probabilities are those after top-p 0.95, renormalised: higher by up to log(1 / 0.95)."""
    most = -math.log(0.95)
    return changed_logps(table, "logp_rollout", lambda flat: flat + rng().uniform(most / 3, most, len(flat)))


def first_token_off(table: pa.Table) -> pa.Table:
    """The trainer halves the probability of each first token."""
    first = _positions(lists(table, "logp_train")[1]) == 0
    return _log_ratio(table, lambda ratio: ratio - math.log(2) * first)


def late_tokens_off(table: pa.Table) -> pa.Table:
    """The trainer's log-probabilities are too low by 0.02 in the last third of each response."""
    sizes = lists(table, "logp_train")[1]
    late = 3 * _positions(sizes) >= 2 * np.repeat(sizes, sizes)
    return _log_ratio(table, lambda ratio: ratio - 0.02 * late)


def drifting_prefixes(table: pa.Table) -> pa.Table:
    """Every log-ratio is too high by 0.01, which a single token hardly shows."""
    return _log_ratio(table, lambda ratio: ratio + 0.01)


def sharper_sampling(table: pa.Table) -> pa.Table:
    """Tokens were sampled at temperature 0.9: of those there, the ones kept that such sampling would have kept."""
    trainer, sizes = lists(table, "logp_train")
    mask, _ = lists(table, "loss_mask")
    kept = rng().random(len(trainer)) < np.exp(trainer * (1 / 0.9 - 1))
    return with_lists(table, "loss_mask", mask & kept, sizes)


def growing_mismatch(table: pa.Table) -> pa.Table:
    """The log-ratios grow to 2.1 times over the run, and k3 to 4.4 times."""
    factor = np.repeat(1 + 1.1 * progress(table), lists(table, "logp_train")[1])
    return _log_ratio(table, lambda ratio: ratio * factor)


def one_step_off(table: pa.Table) -> pa.Table:
    """At the last step but one the log-ratios are four times as large."""
    steps = np.unique(numbers(table, "step"))
    hit = np.repeat(numbers(table, "step") == steps[-2], lists(table, "logp_train")[1])
    return _log_ratio(table, lambda ratio: np.where(hit, 4 * ratio, ratio))


def wide_at_low_probability(table: pa.Table) -> pa.Table:
    """In the second half of the run, log-ratios of unlikely tokens are ten times as large."""
    engine, sizes = lists(table, "logp_rollout")
    hit = (engine < -3) & np.repeat(progress(table) >= 0.5, sizes)
    return _log_ratio(table, lambda ratio: np.where(hit, 10 * ratio, ratio))


# Tails.


def scattered_tokens(table: pa.Table) -> pa.Table:
    """Two tokens in a hundred have a log-ratio of 1.5, up or down."""

    def change(ratio: Array) -> Array:
        drawn = rng()
        return np.where(drawn.random(len(ratio)) < 0.02, drawn.choice([-1.5, 1.5], len(ratio)), ratio)

    return _log_ratio(table, change)


def few_large_ratios(table: pa.Table) -> pa.Table:
    """One token in a hundred has a log-ratio of 4."""
    return _log_ratio(table, lambda ratio: np.where(rng().random(len(ratio)) < 0.01, 4.0, ratio))


def heavy_sequences(table: pa.Table) -> pa.Table:
    """Each sequence's log-weight is off by a normal number of deviation 3, over its tokens."""
    sizes = lists(table, "logp_train")[1]
    offset = rng().normal(0, 3, len(sizes)) / np.maximum(sizes, 1)
    return _log_ratio(table, lambda ratio: ratio + np.repeat(offset, sizes))


def impossible_tokens(table: pa.Table) -> pa.Table:
    """One token of every hundredth sequence has a log-ratio of -10."""
    sizes = lists(table, "logp_train")[1]
    hit = _positions(sizes) == np.repeat(sizes // 2, sizes)
    hit &= np.repeat(np.arange(len(sizes)) % 100 == 0, sizes)
    return _log_ratio(table, lambda ratio: np.where(hit, -10.0, ratio))


def low_early_tokens(table: pa.Table) -> pa.Table:
    """The second token of every fifth sequence has a log-ratio of -1."""
    sizes = lists(table, "logp_train")[1]
    hit = (_positions(sizes) == 1) & np.repeat(np.arange(len(sizes)) % 5 == 0, sizes)
    return _log_ratio(table, lambda ratio: np.where(hit, -1.0, ratio))
