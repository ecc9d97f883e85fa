"""Quantities of several runs from one base: along the steps of one training, and between siblings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ckptaudit.linalg.agreement import beyond_chance, jaccard
from ckptaudit.linalg.update_series import cosines, leading_share
from ckptaudit.metrics.footprints import Footprints
from ckptaudit.metrics.metric import METRICS, Scale, Scope, register
from ckptaudit.pairing.runs import Over

Compute = Callable[[Footprints], Tensor]
Judges = Callable[[int, Sequence[int]], bool]
"""Whether the metric says anything about the run at a position among these steps."""

APART = 1.25
"""Two saves must lie this factor of steps apart for a rate of growth between them to mean anything."""

FEWEST_SAVES = 3
"""With the base four points: through fewer of them a line says little."""


@dataclass(frozen=True, slots=True)
class RunsMetric:
    """A pure function of footprints to one float64 number for each run and matrix; NaN where it says nothing."""

    name: str
    scale: Scale
    formula: str
    source: str
    over: Over
    compute: Compute
    judges: Judges
    unit: str = "1"
    scope: Scope = "runs"
    needs: tuple[str, ...] = ()


def _every_run(position: int, steps: Sequence[int]) -> bool:
    return True


def _after_the_first(position: int, steps: Sequence[int]) -> bool:
    return position > 0


def _before_the_last(position: int, steps: Sequence[int]) -> bool:
    return position < len(steps) - 1


def _far_from_an_earlier(position: int, steps: Sequence[int]) -> bool:
    return bool(_earlier(position, steps))


def _last_of_several(position: int, steps: Sequence[int]) -> bool:
    return position == len(steps) - 1 and len(steps) >= FEWEST_SAVES


def _metric(
    *, scale: Scale, over: Over, formula: str, source: str, judges: Judges = _every_run
) -> Callable[[Compute], Compute]:
    def register_function(function: Compute) -> Compute:
        register(RunsMetric(function.__name__, scale, formula, source, over, function, judges))
        return function

    return register_function


def runs_metrics() -> dict[str, RunsMetric]:
    """The metrics that compare runs, by name."""
    return {name: metric for name, metric in METRICS.items() if isinstance(metric, RunsMetric)}


@_metric(
    scale="size",
    over="steps",
    formula="ln(v(t) / v(t0)) / ln(t / t0), v = relative_update_norm, t0 the last earlier save with t >= 1.25 t0",
    source="follows from arXiv:2511.08567, Gate I: a step of bounded size moves the weights by a bounded amount",
    judges=_far_from_an_earlier,
)
def drift_growth(runs: Footprints) -> Tensor:
    """Exponent of the update's growth in the step number: 0.5 for a random walk, 1 for a straight line."""
    values = torch.full_like(runs.norms, torch.nan)
    for run, step in enumerate(runs.steps):
        if earlier := _earlier(run, runs.steps):
            ratio = runs.norms[run] / runs.norms[earlier[-1]]
            growth = ratio.log() / torch.tensor(step / runs.steps[earlier[-1]]).double().log()
            values[run] = torch.where(growth.isfinite(), growth, torch.nan)
    return values


@_metric(
    scale="size",
    over="steps",
    formula="stable_rank(D_t) / stable_rank(D_first)",
    source="arXiv:2606.07082, 4.1",
    judges=_after_the_first,
)
def stable_rank_climb(runs: Footprints) -> Tensor:
    """How much wider the update has become since the first save; 1 at the first."""
    return runs.stable_ranks / runs.stable_ranks[0]


@_metric(
    scale="share",
    over="steps",
    formula="Sim_K(t) = norm_F(V_K(D_t)' V_K(D_last))^2 / K, K = min(16, max(1, r // 8))",
    source="arXiv:2606.07082, 4.2",
    judges=_before_the_last,
)
def subspace_locking(runs: Footprints) -> Tensor:
    """How much of the last save's leading update directions this save already had; 1 at the last, chance K / n."""
    return runs.similarities[:, -1]


@_metric(
    scale="share",
    over="steps",
    formula="#{ij : R^2(w_ij, t) > 0.7} / #{ij : w_ij changed at some save}, the base being t = 0",
    source="arXiv:2601.04537, abstract: R^2 > 0.7; the share over changed weights is our reading",
    judges=_last_of_several,
)
def straight_share(runs: Footprints) -> Tensor:
    """Of the weights that changed, the share that follows the step number; three unrelated saves read 0.08."""
    share = runs.sums.straight / torch.where(runs.sums.moved > 0, runs.sums.moved, torch.nan)
    return share.expand_as(runs.norms)


@_metric(
    scale="share",
    over="steps",
    formula="largest eigenvalue of C over the number of saves, C_ij = <D_i, D_j> / (norm(D_i) norm(D_j))",
    source="arXiv:2605.21468, abstract: weight trajectories of rank one; saves scaled alike is our reading",
    judges=_last_of_several,
)
def leading_trajectory_share(runs: Footprints) -> Tensor:
    """How far the updates of all saves lie along one direction: 1 on a line, 1 / saves for unrelated ones."""
    return leading_share(cosines(runs.sums.products)).expand_as(runs.norms)


@_metric(
    scale="difference",
    over="siblings",
    formula="mean over siblings of <D_i, D_j> / (norm_F(D_i) norm_F(D_j))",
    source="definition",
)
def sibling_update_cosine(runs: Footprints) -> Tensor:
    """How far a run's update points where its siblings' do: 0 for unrelated updates, below for opposite ones."""
    return _with_others(cosines(runs.sums.products))


@_metric(
    scale="share",
    over="siblings",
    formula="mean over siblings of |M_i & M_j| / |M_i | M_j|, M the bf16-visible update masks",
    source="arXiv:2511.08567, 3",
)
def sibling_jaccard(runs: Footprints) -> Tensor:
    """How far the entries that a run changed are those that its siblings changed."""
    sizes = _sizes(runs)
    return _with_others(jaccard(runs.shared, sizes[:, None], sizes[None]))


@_metric(
    scale="share",
    over="siblings",
    formula="mean over siblings of p_i p_j / (p_i + p_j - p_i p_j), p = |M| / (m n)",
    source="arXiv:2511.08567, 3",
)
def sibling_jaccard_by_chance(runs: Footprints) -> Tensor:
    """The Jaccard index that independent masks of the same sizes would have: the baseline of sibling_jaccard."""
    sizes = _sizes(runs)
    return _with_others(jaccard(sizes[:, None] * sizes[None], sizes[:, None], sizes[None]))


@_metric(
    scale="share",
    over="siblings",
    formula="mean over siblings of (p_ij - p_i p_j) / (min(p_i, p_j) - p_i p_j), p_ij = |M_i & M_j| / (m n)",
    source="arXiv:2511.08567, 3 (our reading)",
)
def sibling_mask_agreement(runs: Footprints) -> Tensor:
    """Agreement of update masks beyond chance: 0 for independent masks, 1 where one mask holds the other."""
    sizes = _sizes(runs)
    return _with_others(beyond_chance(runs.shared, sizes[:, None], sizes[None]))


@_metric(scale="share", over="siblings", formula="|M_1 & ... & M_N| / (m n)", source="arXiv:2511.08567, 3")
def consensus_share(runs: Footprints) -> Tensor:
    """Share of the entries that every one of the runs changed."""
    return runs.consensus.expand_as(runs.norms)


@_metric(
    scale="share",
    over="siblings",
    formula="mean over siblings of Sim_K(D_i, D_j), K = min(16, max(1, r // 8))",
    source="arXiv:2606.07082, 4.2 (our reading, between runs)",
)
def sibling_subspace_agreement(runs: Footprints) -> Tensor:
    """How far a run's leading update directions are those of its siblings; chance is K / n."""
    return _with_others(runs.similarities)


@_metric(
    scale="size",
    over="siblings",
    formula="sibling_subspace_agreement of the run / mean Sim_K over the pairs without it",
    source="arXiv:2606.07082, 4.2 (our reading, between runs)",
)
def sibling_kinship(runs: Footprints) -> Tensor:
    """Agreement with the siblings against theirs among themselves: well under 1 for a run that went elsewhere."""
    agreement = sibling_subspace_agreement(runs)
    rest = torch.stack([_among(runs.similarities, without=i) for i in range(len(runs.of))])
    return agreement / torch.where(rest > 0, rest, torch.nan)


def _earlier(position: int, steps: Sequence[int]) -> list[int]:
    return [i for i in range(position) if 0 < steps[i] * APART <= steps[position]]


def _sizes(runs: Footprints) -> Float[Tensor, "runs batch"]:
    return torch.diagonal(runs.shared, dim1=0, dim2=1).T


def _with_others(pairs: Float[Tensor, "runs runs batch"]) -> Float[Tensor, "runs batch"]:
    """Each run's mean over its pairs with the others; NaN only where no pair says anything."""
    apart = ~torch.eye(pairs.shape[0], dtype=torch.bool)
    return torch.where(apart[:, :, None], pairs, torch.nan).nanmean(dim=1)


def _among(pairs: Float[Tensor, "runs runs batch"], *, without: int) -> Float[Tensor, "batch"]:
    others = [i for i in range(pairs.shape[0]) if i != without]
    apart = torch.triu(torch.ones(len(others), len(others), dtype=torch.bool), diagonal=1)
    rest: Tensor = pairs[others][:, others][apart].nanmean(dim=0)
    return rest
