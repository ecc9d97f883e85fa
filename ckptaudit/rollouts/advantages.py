"""Advantages recomputed from rewards, by the conventions of the trainers.

With r the rewards of a group of n, mean and deviation s (over n - 1) taken over the group:

verl        (r - mean) / (s + 1e-6); a group of one keeps its reward. Also SkyRL's default
trl         (r - mean) / (s + 1e-4); scale_rewards "group"
openrlhf    (r - mean) / (s + 1e-9); group_norm
slime       (r - mean) / (s + 1e-6); a group of one gets 0
nemo-rl     (r - mean of the others) / (s of the others + 1e-6), not scaled where that s is 0
prime-rl    r - mean. Also Dr. GRPO, and verl with norm_adv_by_std_in_grpo off
maxrl       (r - mean) / (mean + 1e-6); SkyRL's MaxRL
areal       (r - mean) / (s over n + 1e-5)
rloo        r - mean of the others. OpenRLHF's rloo, TRL's RLOO without normalization
trl-batch   (r - mean) / (s of all rewards of the step + 1e-4); scale_rewards "batch"
reinforce++ r - mean, then whitened over all tokens of the step: OpenRLHF's reinforce_baseline
mc-grpo     (r - median) / (median absolute deviation + 1e-3), times n / (how many are not 0)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ckptaudit.rollouts.groups import Array, GroupTable

Convention = Callable[[GroupTable, Array], Array]


def _deviation(table: GroupTable, rewards: Array, freedom: int = 1) -> Array:
    centred = rewards - table.means(rewards)
    variance = table.sums(centred * centred) / np.maximum(table.sizes - freedom, 1)
    return np.asarray(np.sqrt(variance)[table.group])


def _scaled(epsilon: float, single: float) -> Convention:
    def advantages(table: GroupTable, rewards: Array) -> Array:
        centred = rewards - table.means(rewards)
        scaled: Array = centred / (_deviation(table, rewards) + epsilon)
        return np.where(table.members == 1, single * rewards, scaled)

    return advantages


def _leave_one_out(table: GroupTable, rewards: Array) -> Array:
    others = np.maximum(table.members - 1, 1)
    centred = rewards - table.means(rewards)  # about the mean, so that no digits cancel
    total, squares = table.sums(centred)[table.group], table.sums(centred**2)[table.group]
    mean = (total - centred) / others
    variance = (squares - centred**2 - others * mean**2) / np.maximum(others - 1, 1)
    low, high = (edge[table.group] for edge in table.extremes(rewards))
    deviation = np.sqrt(np.maximum(variance, 0.0))
    deviation[_others_equal(table, rewards, low, high)] = 0.0
    difference = centred - mean
    scaled: Array = np.where(deviation > 0, difference / (deviation + 1e-6), difference)
    return np.where(table.members == 1, 0.0, scaled)


def _others_equal(table: GroupTable, rewards: Array, low: Array, high: Array) -> Array:
    """Whether all other members of a sample's group have one reward, exactly."""
    at_low = table.sums((rewards == low).astype(float))[table.group] - (rewards == low)
    at_high = table.sums((rewards == high).astype(float))[table.group] - (rewards == high)
    others: Array = table.members - 1
    return np.asarray((at_low == others) | (at_high == others))


def _centred(table: GroupTable, rewards: Array) -> Array:
    return np.asarray(rewards - table.means(rewards))


def _by_mean(table: GroupTable, rewards: Array) -> Array:
    mean = table.means(rewards)
    return np.asarray((rewards - mean) / (mean + 1e-6))


def _others_mean(table: GroupTable, rewards: Array) -> Array:
    centred = rewards - table.means(rewards)
    return np.asarray(centred * table.members / np.maximum(table.members - 1, 1))


def _by_batch(table: GroupTable, rewards: Array) -> Array:
    return np.asarray((rewards - table.means(rewards)) / _batch_divisor(rewards))


def _batch_divisor(rewards: Array) -> Array:
    spread = rewards.std(ddof=1) if len(rewards) > 1 else 0.0
    return np.full(len(rewards), spread + 1e-4)


def _whitened(table: GroupTable, rewards: Array) -> Array:
    shift, spread = _token_moments(table, rewards)
    return np.asarray((rewards - table.means(rewards) - shift) / spread)


def _token_moments(table: GroupTable, rewards: Array) -> tuple[float, float]:
    """Mean and deviation over tokens of what is left of the rewards; NaN where no length is known."""
    lengths = table.values.get("length", np.zeros(len(rewards)))
    tokens = np.where(np.isfinite(lengths), np.maximum(lengths, 0.0), 0.0)
    centred = rewards - table.means(rewards)
    if not tokens.any():
        return math.nan, math.nan
    mean = float(np.average(centred, weights=tokens))
    return mean, math.sqrt(max(float(np.average((centred - mean) ** 2, weights=tokens)), 1e-8))


def _population(table: GroupTable, rewards: Array) -> Array:
    return np.asarray((rewards - table.means(rewards)) / (_deviation(table, rewards, 0) + 1e-5))


def _median_centred(table: GroupTable, rewards: Array) -> Array:
    centred = rewards - table.medians(rewards)
    scaled = centred / (table.medians(np.abs(centred)) + 1e-3)
    nonzero = table.sums((scaled != 0).astype(float))[table.group]
    return np.asarray(scaled * table.members / np.maximum(nonzero, 1))


CONVENTIONS: dict[str, Convention] = {
    "verl": _scaled(1e-6, 1.0),
    "trl": _scaled(1e-4, 0.0),
    "openrlhf": _scaled(1e-9, 0.0),
    "slime": _scaled(1e-6, 0.0),
    "nemo-rl": _leave_one_out,
    "prime-rl": _centred,
    "maxrl": _by_mean,
    "areal": _population,
    "rloo": _others_mean,
    "trl-batch": _by_batch,
    "reinforce++": _whitened,
    "mc-grpo": _median_centred,
}
SCALED_BY_DEVIATION = ("verl", "trl", "openrlhf", "slime")
"""Those whose advantage is a z-score, and so at most (n - 1) / sqrt(n)."""
CENTRED = ("verl", "trl", "openrlhf", "slime", "prime-rl", "maxrl", "areal", "rloo", "trl-batch")
"""Those whose advantages sum to 0 in every group of more than one."""


EPSILON = {"verl": 1e-6, "trl": 1e-4, "openrlhf": 1e-9, "slime": 1e-6, "areal": 1e-5}
"""What is added to the deviation before it divides."""
FLOAT32 = 2.0**-24


def baseline(table: GroupTable, convention: str) -> Array:
    """The reward of each sample's group whose advantage is 0."""
    rewards = table.values["reward"]
    if convention == "mc-grpo":
        return table.medians(rewards)
    shift = _token_moments(table, rewards)[0] if convention == "reinforce++" else 0.0
    return np.asarray(table.means(rewards) + shift)


def rounding(table: GroupTable, convention: str) -> Array:
    """How far float32 may take a sample's advantage from the formula: a mean of n rewards is off by n units of
    rounding at most, and what divides it makes that larger. Groups of equal rewards show it.
    """
    rewards = table.values["reward"]
    _, high = table.extremes(np.abs(rewards))
    size = np.where(np.isfinite(high), high, 0.0)[table.group]
    return np.asarray(table.members * FLOAT32 * size / np.minimum(_divisor(table, rewards, convention), 1.0))


def _divisor(table: GroupTable, rewards: Array, convention: str) -> Array:
    if convention == "trl-batch":
        return _batch_divisor(rewards)
    if convention == "reinforce++":
        return np.full(len(rewards), _token_moments(table, rewards)[1])
    if convention in EPSILON:
        return _deviation(table, rewards) + EPSILON[convention]
    return np.ones(len(rewards))


def errors(table: GroupTable, conventions: tuple[str, ...]) -> dict[str, Array]:
    """abs(logged - recomputed) beyond float32's rounding, by convention; needs reward and advantage."""
    logged, rewards = table.values["advantage"], table.values["reward"]
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            name: np.maximum(np.abs(logged - CONVENTIONS[name](table, rewards)) - rounding(table, name), 0.0)
            for name in conventions
        }
