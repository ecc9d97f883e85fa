"""The update against the Fisher information's diagonal: whether it writes where the loss is sensitive."""

from __future__ import annotations

from collections.abc import Iterator
from math import fsum

from torch import Tensor

from ckptaudit.errors import MeasurementError
from ckptaudit.linalg.selection import cut_by_mass
from ckptaudit.metrics.groups import Piece, Reading, WeightGroup, group_metric

TOP = 0.01
"""Share of the coordinates that count as the sensitive ones."""

ALIGNGUARD = "arXiv:2508.02079, abstract: Fisher-based regularization in alignment-sensitive subspaces; our reading"


def _pieces(group: WeightGroup) -> Iterator[tuple[Piece, Tensor]]:
    for piece in group.pieces():
        fisher = piece.weights["fisher"]
        if bool((fisher < 0).any()):
            raise MeasurementError(
                f"the Fisher diagonal of {piece.tensor} has negative entries, which no square has"
            )
        yield piece, fisher


@group_metric(
    unit="1",
    scale="size",
    formula="(sum F d^2 / sum d^2) / (sum F / entries)",
    source=ALIGNGUARD,
    inputs=("fisher",),
)
def fisher_weighted_ratio(group: WeightGroup) -> Reading:
    """The update's mean sensitivity against the weights'; 1 for an update blind to the Fisher information."""
    weighted: dict[str, float] = {}
    squares, fishers = [], []
    for piece, fisher in _pieces(group):
        square = piece.update.square()
        weighted[piece.tensor] = weighted.get(piece.tensor, 0.0) + float(fisher @ square)
        squares.append(float(square.sum()))
        fishers.append(float(fisher.sum()))
    if not fsum(fishers):
        return Reading(None, remark="the Fisher diagonal is zero here")
    if not fsum(squares):
        return Reading(0.0, remark="the update is zero")
    value = fsum(weighted.values()) / fsum(squares) / (fsum(fishers) / group.entries)
    return Reading(value, max(weighted, key=lambda name: weighted[name]))


@group_metric(
    unit="1",
    scale="share",
    formula="sum_{ij in T} d^2 / sum d^2, T = the hundredth of all coordinates with the largest F, ties shared",
    source=ALIGNGUARD,
    inputs=("fisher",),
)
def fisher_top_share(group: WeightGroup) -> Reading:
    """Share of the update's energy on the most sensitive hundredth of the coordinates; chance is 0.01."""
    wanted = TOP * group.entries
    # Every coordinate weighs the same here, so that the mass of the largest is their number.
    cut = cut_by_mass(lambda: ((fisher, fisher.new_ones(len(fisher))) for _, fisher in _pieces(group)), wanted)
    ties = cut.share_of_ties(wanted)
    parts: dict[str, float] = {}
    squares = []
    for piece, fisher in _pieces(group):
        square = piece.update.square()
        inside = cut.is_above(fisher).double() + ties * cut.is_at(fisher).double()
        parts[piece.tensor] = parts.get(piece.tensor, 0.0) + float(inside @ square)
        squares.append(float(square.sum()))
    if not fsum(squares):
        return Reading(0.0, remark="the update is zero")
    return Reading(fsum(parts.values()) / fsum(squares), max(parts, key=lambda name: parts[name]))
