"""Which head answers to which: key/value groups, the query heads of each, and the dimensions of its values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ckptaudit.errors import MeasurementError

ROUNDS = 20


@dataclass(frozen=True, slots=True)
class Likeness:
    """Inner products of what two attention layers hold, head against head.

    `keys[g, h]` of whole key heads, `queries[g, r, h, s]` of whole query heads r and s of the groups g and h,
    `values[g, d, h, e]` of single value dimensions, `mixed[g, r, d, h, s, e]` of single columns of the output
    projection.
    """

    keys: Float[Tensor, "kv kv"]
    queries: Float[Tensor, "kv rep kv rep"]
    values: Float[Tensor, "kv dim kv dim"]
    mixed: Float[Tensor, "kv rep dim kv rep dim"]


@dataclass(frozen=True, slots=True)
class HeadOrder:
    """For each group of the first layer the group, the query heads in it and the value dimensions of the second."""

    groups: Int[Tensor, "kv"]
    queries: Int[Tensor, "kv rep"]
    values: Int[Tensor, "kv dim"]


def assignment(gain: Float[Tensor, "n n"]) -> Int[Tensor, "n"]:
    """The permutation p with the largest sum of gain[i, p[i]] (`scipy.optimize.linear_sum_assignment`).

    Raises MeasurementError if a weight behind the gain is not finite.
    """
    if not bool(gain.isfinite().all()):
        raise MeasurementError("units cannot be matched: a weight of either side has NaN or infinite entries")
    # Imported late: every audit loads this module, few match anything, and SciPy takes a while.
    from scipy.optimize import linear_sum_assignment

    _, columns = linear_sum_assignment(gain.cpu().numpy(), maximize=True)
    return torch.from_numpy(columns)


def match_heads(like: Likeness, known: HeadOrder) -> HeadOrder:
    """The order that makes the two layers most alike; never less alike than under `known`."""
    kv, rep, dim = like.queries.shape[0], like.queries.shape[1], like.values.shape[1]
    gain = torch.empty(kv, kv, dtype=torch.float64)
    queries = torch.empty(kv, kv, rep, dtype=torch.int64)
    values = torch.empty(kv, kv, dim, dtype=torch.int64)
    for g in range(kv):
        for h in range(kv):
            starts = [_by_values_alone(like, g, h)]
            if int(known.groups[g]) == h:
                starts.append((known.queries[g], known.values[g]))
            found = [_match_within(like, g, h, *start) for start in starts]
            best, queries[g, h], values[g, h] = max(found, key=lambda option: option[0])
            gain[g, h] = float(like.keys[g, h]) + best
    groups = assignment(gain)
    rows = torch.arange(kv)
    return HeadOrder(groups, queries[rows, groups], values[rows, groups])


def _by_values_alone(like: Likeness, g: int, h: int) -> tuple[Tensor, Tensor]:
    values = assignment(like.values[g, :, h, :])
    return _best_queries(like, g, h, values), values


def _match_within(like: Likeness, g: int, h: int, queries: Tensor, values: Tensor) -> tuple[float, Tensor, Tensor]:
    """Query heads and value dimensions of two groups in turn, until neither changes."""
    for _ in range(ROUNDS):
        before = queries, values
        values = _best_values(like, g, h, queries)
        queries = _best_queries(like, g, h, values)
        if torch.equal(before[0], queries) and torch.equal(before[1], values):
            break
    return _gain(like, g, h, queries, values), queries, values


def _best_queries(like: Likeness, g: int, h: int, values: Tensor) -> Tensor:
    picked = like.mixed[g, :, torch.arange(len(values)), h, :, values]  # [dim, rep, rep]
    return assignment(like.queries[g, :, h, :] + picked.sum(dim=0))


def _best_values(like: Likeness, g: int, h: int, queries: Tensor) -> Tensor:
    picked = like.mixed[g, torch.arange(len(queries)), :, h, queries, :]  # [rep, dim, dim]
    return assignment(like.values[g, :, h, :] + picked.sum(dim=0))


def _gain(like: Likeness, g: int, h: int, queries: Tensor, values: Tensor) -> float:
    rows, dims = torch.arange(len(queries)), torch.arange(len(values))
    mixed = like.mixed[g, rows[:, None], dims, h, queries[:, None], values]
    return float(like.queries[g, rows, h, queries].sum() + like.values[g, dims, h, values].sum() + mixed.sum())
