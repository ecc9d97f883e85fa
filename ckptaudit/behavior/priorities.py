"""Which principles an annotator puts first where they conflict, and how far two annotators' orders are apart."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from ckptaudit.behavior.statistics import Array

ROUNDS = 200
"""Steps of the minorisation by which strengths are fitted."""

LEAST = 1e-12
"""Strength, beside the strongest, of a principle that always loses."""

ALIKE = 1e-6
"""Logarithms of strengths nearer than this are a tie."""


def strengths(wins: Array) -> Array:
    """Logarithms of Bradley-Terry strengths p from counts, `[..., n, n]`, of how often i was followed against j.

    P(i over j) = p_i / (p_i + p_j), by Hunter's minorisation (2004): p_i <- W_i / sum_j n_ij / (p_i + p_j). Who
    always loses comes to LEAST, which stands for minus infinity.
    """
    counts = wins + np.swapaxes(wins, -1, -2)
    won = wins.sum(axis=-1)
    found = np.ones_like(won)
    for _ in range(ROUNDS):
        below = (counts / (found[..., :, None] + found[..., None, :])).sum(axis=-1)
        found = np.divide(won, below, out=np.zeros_like(won), where=below > 0)
        found = np.maximum(found / found.max(axis=-1, keepdims=True).clip(LEAST), LEAST)
    log: Array = np.log(found)
    return log


def discrepancy(first: Array, second: Array) -> Array:
    """Normalised Kendall distance of two orders, `[..., n]` strengths each: the share of pairs ordered otherwise.

    A pair that is tied in one order alone counts as half.
    """
    pairs = list(combinations(range(first.shape[-1]), 2))
    apart = [np.abs(_order(first, i, j) - _order(second, i, j)) / 2 for i, j in pairs]
    shares: Array = np.mean(apart, axis=0)
    return shares


def _order(strength: Array, i: int, j: int) -> Array:
    difference = strength[..., i] - strength[..., j]
    signs: Array = np.where(np.abs(difference) < ALIKE, 0.0, np.sign(difference))
    return signs
