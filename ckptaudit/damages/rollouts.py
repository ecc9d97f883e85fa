"""Damages to a run's rollouts and curves: pure functions, each of which a check must notice.

A damage of rollouts takes a canonical table and gives another; one of curves takes and gives curves by canonical
name and step. Both are deterministic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa

from ckptaudit.damages.columns import Array, lists, numbers, with_column, with_lists
from ckptaudit.damages.curves import CURVE_DAMAGES
from ckptaudit.damages.log_probabilities import (
    changed_logps,
    drifting_prefixes,
    few_large_ratios,
    first_token_off,
    growing_mismatch,
    heavy_sequences,
    impossible_tokens,
    late_tokens_off,
    long_mask,
    low_early_tokens,
    nan_logp,
    one_step_off,
    other_weights,
    positive_logp,
    progress,
    renormalised_engine,
    rng,
    scattered_tokens,
    sharper_sampling,
    shifted_by_one,
    short_logps,
    swapped_sequences,
    unwritten_engine_logps,
    unwritten_logps,
    wide_at_low_probability,
)
from ckptaudit.rollouts.table import SCHEMA

Damage = Callable[[pa.Table], pa.Table]


# Versions and clipping.


def aged_samples(table: pa.Table) -> pa.Table:
    """All samples are twenty versions older than they were."""
    return with_column(table, "version_first", numbers(table, "version_first") - 20)


def idle_clip(table: pa.Table) -> pa.Table:
    """Samples are a version old, and the policy has not moved from the one that sampled."""
    table = with_column(table, "version_first", numbers(table, "version_first") - 1)
    return with_lists(table, "logp_new", *lists(table, "logp_train"))


def one_sided_clip(table: pa.Table) -> pa.Table:
    """The policy moves up at a fifth of the tokens and down at a hundredth, whatever their advantage."""

    def change(flat: Array) -> Array:
        chance = rng().random(len(flat))
        return np.asarray(trainer + np.where(chance < 0.2, 0.5, np.where(chance > 0.99, -0.5, 0.0)))

    trainer, _ = lists(table, "logp_train")
    return changed_logps(table, "logp_new", change)


# Groups and advantages.


def lost_sample(table: pa.Table) -> pa.Table:
    """One sample of one group is missing."""
    return table.slice(1)


def swapped_groups(table: pa.Table) -> pa.Table:
    """Two samples of different prompts have each other's group."""
    ids = table.column("group_id").to_pylist()
    other = next(place for place, name in enumerate(ids) if name != ids[0])
    ids[0], ids[other] = ids[other], ids[0]
    return with_column(table, "group_id", ids)


def _advantages(table: pa.Table, change: Callable[[Array, Array], Array]) -> pa.Table:
    """`change` takes advantages and rewards."""
    return with_column(table, "advantage", change(numbers(table, "advantage"), numbers(table, "reward")))


def flipped_advantages(table: pa.Table) -> pa.Table:
    """One advantage in a hundred has the other sign."""
    return _advantages(table, lambda a, r: np.where(np.arange(len(a)) % 100 == 0, -a, a))


def negated_advantages(table: pa.Table) -> pa.Table:
    """Every advantage has the other sign, as where a loss is maximized."""
    return _advantages(table, lambda a, r: -a)


def batch_baseline(table: pa.Table) -> pa.Table:
    """The baseline is the mean of all samples of the step instead of the group's."""
    steps = numbers(table, "step")

    def change(_: Array, rewards: Array) -> Array:
        made = np.empty_like(rewards)
        for step in np.unique(steps):
            mine = steps == step
            made[mine] = (rewards[mine] - rewards[mine].mean()) / (rewards[mine].std(ddof=1) + 1e-4)
        return made

    return _advantages(table, change)


def wrong_epsilon(table: pa.Table) -> pa.Table:
    """The deviation is raised by 0.01 before it divides."""
    return _regrouped(table, lambda centred, deviation: centred / (deviation + 0.01))


def population_deviation(table: pa.Table) -> pa.Table:
    """The deviation is taken over n instead of n - 1."""
    return _regrouped(table, lambda centred, deviation: centred / (deviation * math.sqrt(7 / 8) + 1e-4))


def _regrouped(table: pa.Table, change: Callable[[Array, Array], Array]) -> pa.Table:
    ids = np.unique(np.array(table.column("group_id").to_pylist()), return_inverse=True)[1]
    rewards, counts = numbers(table, "reward"), np.bincount(ids)
    centred = rewards - (np.bincount(ids, rewards) / counts)[ids]
    deviation = np.sqrt(np.bincount(ids, centred**2) / np.maximum(counts - 1, 1))[ids]
    return with_column(table, "advantage", change(centred, deviation))


def reward_as_advantage(table: pa.Table) -> pa.Table:
    """Each sample is its own group: the advantage is the reward."""
    return _advantages(table, lambda a, r: r)


def huge_advantage(table: pa.Table) -> pa.Table:
    """One advantage is -2075."""
    return _advantages(table, lambda a, r: np.where(np.arange(len(a)) == 3, -2075.0, a))


def uncentred_advantages(table: pa.Table) -> pa.Table:
    """All advantages are too high by 0.01."""
    return _advantages(table, lambda a, r: a + 0.01)


def mispriced_reference(table: pa.Table) -> pa.Table:
    """The first member of each group is a reference answer, and its advantage is 0.1 too high."""
    ids = table.column("group_id").to_pylist()
    first = np.array([place == 0 or name != ids[place - 1] for place, name in enumerate(ids)])
    table = with_column(table, "stop_reason", ["reference" if hit else "stop" for hit in first])
    return _advantages(table, lambda a, r: a + 0.1 * first)


def equal_rewards(table: pa.Table) -> pa.Table:
    """All rewards of a group are their mean, and no sample has an advantage."""
    ids = np.unique(np.array(table.column("group_id").to_pylist()), return_inverse=True)[1]
    means = np.bincount(ids, numbers(table, "reward")) / np.bincount(ids)
    table = with_column(table, "reward", means[ids])
    return with_column(table, "advantage", np.zeros(table.num_rows))


# Answers.


def cut_off_at_the_end(table: pa.Table) -> pa.Table:
    """In the last tenth of the steps every answer is ten times as long, and cut off."""
    late = progress(table) >= 0.9
    table = with_column(table, "truncated", late | (numbers(table, "truncated") > 0))
    lengths = numbers(table, "response_len")
    return with_column(table, "response_len", np.where(late, 10 * lengths, lengths).astype(int))


def looping_answers(table: pa.Table) -> pa.Table:
    """Every fifth answer is one token again and again."""
    flat, sizes = lists(table, "token_ids")
    hit = np.repeat(np.arange(len(sizes)) % 5 == 0, sizes)
    return with_lists(table, "token_ids", np.where(hit, 7, flat), sizes)


def copied_answers(table: pa.Table) -> pa.Table:
    """Every answer of a group has the tokens of its first, as far as its length allows."""
    flat, sizes = lists(table, "token_ids")
    ids = table.column("group_id").to_pylist()
    starts = np.cumsum(sizes) - sizes
    first: dict[str, int] = {}
    made = [flat[starts[first.setdefault(name, place)] :][: sizes[first[name]]] for place, name in enumerate(ids)]
    return with_lists(table, "token_ids", np.concatenate(made), np.array([len(part) for part in made]))


def nan_advantage(table: pa.Table) -> pa.Table:
    """The advantage of one sample is NaN."""
    advantages = numbers(table, "advantage").copy()
    advantages[table.num_rows // 2] = math.nan
    return with_column(table, "advantage", advantages)


def nan_reward(table: pa.Table) -> pa.Table:
    """The reward of one sample is NaN."""
    rewards = numbers(table, "reward").copy()
    rewards[table.num_rows // 2] = math.nan
    return with_column(table, "reward", rewards)


def stuck_groups(table: pa.Table) -> pa.Table:
    """In the last fifth of the steps every answer has the tokens of its group's first, and the lowest reward."""
    late = progress(table) >= 0.8
    rewards = numbers(table, "reward")
    table = copied_answers(table)
    return with_column(table, "reward", np.where(late, rewards.min(), rewards))


def empty_answers(table: pa.Table) -> pa.Table:
    """Every fourth answer has no token."""
    kept = np.arange(table.num_rows) % 4 != 0
    for column in (field.name for field in SCHEMA if pa.types.is_list(field.type)):
        if column in table.schema.names and table.column(column).null_count == 0:
            flat, sizes = lists(table, column)
            table = with_lists(table, column, flat[np.repeat(kept, sizes)], np.where(kept, sizes, 0))
    table = with_column(table, "response_len", np.where(kept, numbers(table, "response_len"), 0).astype(int))
    texts = table.column("response").to_pylist()
    return with_column(table, "response", [text if there else "" for text, there in zip(texts, kept, strict=True)])


def paid_by_length(table: pa.Table) -> pa.Table:
    """The reward is the length of the answer as a share of the longest; advantages follow."""
    lengths = numbers(table, "response_len")
    table = with_column(table, "reward", lengths / lengths.max())
    return _regrouped(table, lambda centred, deviation: centred / (deviation + 1e-4))


def collapsed_entropy(table: pa.Table) -> pa.Table:
    """In the last tenth of the steps the entropy is a twentieth."""
    return _late_entropy(table, 0.05)


def exploded_entropy(table: pa.Table) -> pa.Table:
    """In the last tenth of the steps the entropy is five times as large."""
    return _late_entropy(table, 5.0)


def _late_entropy(table: pa.Table, factor: float) -> pa.Table:
    flat, sizes = lists(table, "entropy")
    late = np.repeat(progress(table) >= 0.9, sizes)
    return with_lists(table, "entropy", np.where(late, factor * flat, flat), sizes)


def format_for_accuracy(table: pa.Table) -> pa.Table:
    """Over the run the reward for form rises to 1 and that for accuracy falls to 0."""
    rise = progress(table)
    values = [[("accuracy", float(1 - share)), ("format", float(share))] for share in rise]
    return with_column(table, "rewards", values)


def lost_step(table: pa.Table) -> pa.Table:
    """The rollouts of one step are missing."""
    steps = numbers(table, "step")
    return table.filter(pa.array(steps != np.unique(steps)[len(np.unique(steps)) // 2]))


def unlike_prefixes(table: pa.Table) -> pa.Table:
    """The samples of a group branch after two tokens, of which one sample has another."""
    flat, sizes = lists(table, "token_ids")
    starts = np.cumsum(sizes) - sizes
    engine, _ = lists(table, "logp_rollout")
    for place in (0, 1):
        flat[starts[sizes > place] + place], engine[starts[sizes > place] + place] = 5, -1.0
    flat[0] = 6
    table = with_lists(with_lists(table, "token_ids", flat, sizes), "logp_rollout", engine, sizes)
    table = with_column(table, "parent_id", table.column("group_id").to_pylist())
    return with_column(table, "prefix_len", [2] * table.num_rows)


DAMAGES: dict[str, Damage] = {
    made.__name__: made
    for made in (
        nan_logp, positive_logp, unwritten_engine_logps, unwritten_logps, short_logps, long_mask,
        other_weights, shifted_by_one, swapped_sequences, renormalised_engine, first_token_off,
        late_tokens_off, drifting_prefixes, sharper_sampling, growing_mismatch, one_step_off,
        wide_at_low_probability, scattered_tokens, few_large_ratios, heavy_sequences, impossible_tokens,
        low_early_tokens, aged_samples, idle_clip, one_sided_clip, lost_sample, swapped_groups,
        flipped_advantages, negated_advantages, batch_baseline, wrong_epsilon, population_deviation,
        reward_as_advantage, huge_advantage, uncentred_advantages, mispriced_reference, equal_rewards,
        cut_off_at_the_end, looping_answers, copied_answers, stuck_groups, nan_reward, nan_advantage,
        empty_answers, paid_by_length, collapsed_entropy, exploded_entropy,
        format_for_accuracy, lost_step, unlike_prefixes,
    )
}  # fmt: skip


DESCRIPTIONS: Mapping[str, str] = {
    name: damage.__doc__ or "" for name, damage in (*DAMAGES.items(), *CURVE_DAMAGES.items())
}
"""What each does."""
