"""Which weights no check judges."""

from __future__ import annotations

from ckptaudit.checkpoints import TensorHandle
from ckptaudit.findings import Finding
from ckptaudit.metrics.evidence import PlanEvidence
from ckptaudit.metrics.findings import findings_metric
from ckptaudit.pairing.model_pair import FLOATING

BEYOND = "rows beyond the common vocabulary"
"""A fault of a tensor that is aligned all the same, in the rows that both sides have."""


@findings_metric(
    scope="plan",
    unit="tensors",
    formula="#{floating-point tensors of the tuned side that no planned check judges, finiteness and change apart}",
)
def unjudged_tensors(evidence: PlanEvidence) -> list[Finding]:
    """Floating-point tensors of the tuned side about whose change no check says anything."""
    pair = evidence.pair
    aligned = [
        Finding(t.name, "not judged", f"role {t.place.role}: no check with a limit on its update selects it")
        for t in pair.aligned
        if _is_weight(t.tuned) and not evidence.judged_by.get(t.name)
    ]
    apart = [
        Finding(u.tensor, "not judged", f"not compared with the base: {u.fault}")
        for u in pair.unaligned
        if u.fault not in (BEYOND, "only in base") and _is_weight(pair.tuned.tensors.get(u.tensor))
    ]
    return [*aligned, *apart]


def _is_weight(handle: TensorHandle | None) -> bool:
    return handle is None or (handle.dtype in FLOATING and handle.parameters > 0)
