"""Whether a merge of models is a combination of its parents."""

from __future__ import annotations

from collections.abc import Iterator

from ckptaudit.findings import Finding
from ckptaudit.metrics.evidence import ParityEvidence
from ckptaudit.metrics.findings import findings_metric
from ckptaudit.metrics.groups import Reading, WeightGroup, group_metric
from ckptaudit.pairing import ModelPair
from ckptaudit.pairing.auxiliary import Auxiliary
from ckptaudit.parity.soup_faults import JudgedSoup, pooled
from ckptaudit.parity.soups import Soup, SoupWeight


@findings_metric(
    scope="parity",
    unit="tensors",
    formula="#{W1: no c with |W1 - W0 - sum_i c_i (P_i - W0)| within rounding in every entry}",
    source="arXiv:2203.05482 (weight averages), arXiv:2212.04089 (task arithmetic)",
    needs=("parents",),
    covers=True,
)
def tensors_outside_span(evidence: ParityEvidence) -> list[Finding]:
    """Tensors that are no linear combination of the parents' updates, however it is weighted.

    Rounding: half a step of the stored type; or as many as arithmetic in that type makes, where at least three
    quarters of the update's squared norm are explained. Raises CheckpointError if a file is damaged.
    """
    return list(_judged(evidence).outside())


@findings_metric(
    scope="parity",
    unit="tensors",
    formula="#{W1: c(W1) further than 0.02 from the median of c over all tensors, and not explained by that}",
    source="definition",
    needs=("parents",),
)
def uncommon_coefficients(evidence: ParityEvidence) -> list[Finding]:
    """Tensors that are a combination of the parents, but not the one that the other tensors are."""
    return list(_judged(evidence).uncommon())


@findings_metric(
    scope="parity",
    unit="parents",
    formula="#{i: median of c_i over all tensors < -0.02}",
    source="definition",
    needs=("parents",),
)
def subtracted_parents(evidence: ParityEvidence) -> list[Finding]:
    """Parents whose update was subtracted, as in task negation, or by a wrong sign."""
    return list(_judged(evidence).subtracted())


@group_metric(
    unit="1",
    scale="share",
    formula="norm(W1 - W0 - sum_i c_i (P_i - W0)) / norm(W1 - W0), c by least squares over all weights",
    source="definition",
    inputs=("parents",),
)
def soup_residual(group: WeightGroup) -> Reading:
    """What the parents' updates leave of the merge's, with one set of coefficients; the remark gives them."""
    soup: Soup = group.once("soup", lambda: _soup(group.pair, Auxiliary(group.inputs)))

    def weights() -> Iterator[SoupWeight]:
        found = (soup.weight(member.tensor) for member in group.members)
        return (weight for weight in found if weight is not None and weight.is_finite)

    fit = pooled(weights, len(soup.parents))
    return Reading(fit.relative_residual, remark=soup.words(fit.coefficients))


def _judged(evidence: ParityEvidence) -> JudgedSoup:
    if "soup" not in evidence.found:
        evidence.found["soup"] = JudgedSoup(_soup(evidence.pair, evidence.auxiliary))
    judged = evidence.found["soup"]
    assert isinstance(judged, JudgedSoup)  # nobody else keeps anything under this name
    return judged


def _soup(pair: ModelPair, auxiliary: Auxiliary) -> Soup:
    return Soup(pair, auxiliary["parents"].checkpoints)
