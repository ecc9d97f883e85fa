"""Whether a file is its base with an adapter merged in."""

from __future__ import annotations

from ckptaudit.findings import Finding
from ckptaudit.metrics.evidence import ParityEvidence
from ckptaudit.metrics.findings import findings_metric
from ckptaudit.parity import merge_faults
from ckptaudit.parity.merges import merge_of


@findings_metric(
    scope="parity",
    unit="tensors",
    formula="#{W1: not round(W0 + s B A) where the adapter has factors, not W0 elsewhere}",
    source="peft's merge_and_unload: the same operations in the same order and types",
    needs=("adapter",),
    covers=True,
)
def merge_mismatches(evidence: ParityEvidence) -> list[Finding]:
    """Tensors that are not base + adapter as peft merges them, bit for bit or in another order of rounding.

    Raises CheckpointError if a file is damaged.
    """
    return list(merge_faults.merge_faults(merge_of(evidence.pair, evidence.auxiliary)))


@findings_metric(
    scope="parity",
    unit="tensors",
    formula="#{W1: round(W0 + s B A) = W0 in every entry, s B A != 0}",
    source="definition",
    needs=("adapter",),
)
def vanished_updates(evidence: ParityEvidence) -> list[Finding]:
    """Tensors whose adapter is too small to move any entry of the base in the base's type."""
    return list(merge_faults.vanished_updates(merge_of(evidence.pair, evidence.auxiliary)))
