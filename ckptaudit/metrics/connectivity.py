"""Weight matching and linear mode connectivity: are the two models the same one, unit for unit?"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ckptaudit.behavior.loss_path import loss_path
from ckptaudit.behavior.probes import Probe, is_plain, read_probes
from ckptaudit.errors import MeasurementError, ProbeError
from ckptaudit.linalg.spectra import relative_distance
from ckptaudit.metrics.groups import Member, Reading, WeightGroup, group_metric
from ckptaudit.metrics.weight_batch import MAX_SUBSPACE
from ckptaudit.pairing.matching import Matching, matching_of

MATCHING = "arXiv:2209.04836 (weight matching); arXiv:2402.04051"


@group_metric(
    unit="1",
    scale="share",
    formula="#{units that the best permutation moves} / #{units}: residual stream, MLP units, heads, value dims",
    source=f"{MATCHING}; the count is ours",
    inputs=(),
    per=("model",),
)
def permuted_units(group: WeightGroup) -> Reading:
    """Share of the network's units that are not where the base has them; 0 unless someone reordered the weights.

    Reordering units changes no output, yet every entry that other metrics compare.
    """
    matching = _matching(group)
    return Reading(matching.moved, remark=f"{matching.sweeps} sweeps")


@group_metric(
    unit="1",
    scale="share",
    formula="min over matrices of <A_k, B_k> / sum_{i<=k} s_i(A) s_i(B), A_k the rank-k part of W0, B_k of W1",
    source=f"{MATCHING}; the quotient is our reading, at most 1 by von Neumann's trace inequality",
    inputs=(),
)
def leading_alignment_before(group: WeightGroup) -> Reading:
    """How well the leading singular vectors of both sides agree, as stored; 1 if they are the same ones."""
    return _least_alignment(group, None)


@group_metric(
    unit="1",
    scale="share",
    formula="the same with the tuned units in the base's order",
    source=f"{MATCHING}; the quotient is our reading, at most 1 by von Neumann's trace inequality",
    inputs=(),
)
def leading_alignment_after(group: WeightGroup) -> Reading:
    """How well the leading singular vectors of both sides agree once the units are matched."""
    return _least_alignment(group, _matching(group))


@group_metric(
    unit="1",
    scale="size",
    formula="max over matrices of norm(s(P W1) - s(W1)) / norm(s(W1)), P W1 the tuned matrix in the base's order",
    source="arXiv:2402.04051: a permutation moves no singular value",
    inputs=(),
)
def matched_spectral_change(group: WeightGroup) -> Reading:
    """What matching does to the singular values: nothing but rounding."""
    matching = _matching(group)
    readings = []
    for member in _matrices(group):
        _, tuned = _both(group, member, None)
        _, matched = _both(group, member, matching)
        before, after = (torch.linalg.svdvals(w)[None] for w in (tuned, matched))
        moved, size = (torch.linalg.vector_norm(v, dim=1) for v in (after - before, before))
        readings.append((float(relative_distance(moved, size)), member.name))
    value, worst = max(readings)
    return Reading(value, worst)


BARRIER = "max_t L((1 - t) W0 + t W1) - ((1 - t) L(W0) + t L(W1)), t = 0, 1/4, ..., 1; L per token on the probes"


@group_metric(unit="nats", scale="difference", formula=BARRIER, source=MATCHING, inputs=("probes",), per=("model",))
def loss_barrier_before(group: WeightGroup) -> Reading:
    """How far the loss rises on the straight line from the base to the tuned model, as stored."""
    return _barrier(group, None)


@group_metric(
    unit="nats",
    scale="difference",
    formula=f"{BARRIER}, with the tuned units in the base's order",
    source=MATCHING,
    inputs=("probes",),
    per=("model",),
)
def loss_barrier_after(group: WeightGroup) -> Reading:
    """How far the loss rises on the straight line from the base to the matched tuned model."""
    return _barrier(group, _matching(group))


def _matching(group: WeightGroup) -> Matching:
    matching: Matching = group.once("matching", lambda: matching_of(group.pair))
    return matching


def _barrier(group: WeightGroup, matching: Matching | None) -> Reading:
    path = loss_path(group.pair, _probes(group.inputs["probes"].path), matching, group.device)
    return Reading(path.barrier, remark="losses " + ", ".join(f"{loss:.4g}" for loss in path.losses))


def _probes(path: str) -> list[Probe]:
    try:
        probes = list(filter(is_plain, read_probes(Path(path))))
    except ProbeError as error:
        raise MeasurementError(*error.args) from error
    if not probes:
        raise MeasurementError("the probes hold no plain text, and no plain prompt with its completion, to score")
    return probes


def _least_alignment(group: WeightGroup, matching: Matching | None) -> Reading:
    readings = [(_alignment(*_both(group, member, matching)), member.name) for member in _matrices(group)]
    value, worst = min(readings)
    return Reading(value, worst)


def _alignment(base: Tensor, tuned: Tensor) -> float:
    k = min(MAX_SUBSPACE, max(1, min(base.shape) // 8))
    (u0, s0, v0h), (u1, s1, v1h) = (torch.linalg.svd(w, full_matrices=False) for w in (base, tuned))
    # <A_k, B_k> without building either: sum_ij s_i t_j (u_i' x_j) (v_i' y_j).
    cosines = (u0[:, :k].mT @ u1[:, :k]) * (v0h[:k] @ v1h[:k].mT)
    shared, most = float(s0[:k] @ cosines @ s1[:k]), float(s0[:k] @ s1[:k])
    if most > 0:
        return shared / most
    return 1.0 if float(s0.sum() + s1.sum()) == 0 else 0.0


def _matrices(group: WeightGroup) -> list[Member]:
    members = [member for member in group.members if member.tensor.is_matrix and not member.tensor.stacked]
    if not members:
        raise MeasurementError("no plain matrix among these weights")
    return members


def _both(group: WeightGroup, member: Member, matching: Matching | None) -> tuple[Tensor, Tensor]:
    base, tuned = member.tensor.base.read(), member.tensor.tuned.read()
    if not bool(base.isfinite().all() and tuned.isfinite().all()):
        raise MeasurementError(f"{member.name} has NaN or infinite entries")
    placed = tuned if matching is None else matching.matched(member.tensor, tuned)
    return base.to(group.device).double(), placed.to(group.device).double()
