"""Whether a conversion changed nothing."""

from __future__ import annotations

from ckptaudit.findings import Finding
from ckptaudit.metrics.evidence import ParityEvidence
from ckptaudit.metrics.findings import findings_metric
from ckptaudit.parity import conversions


@findings_metric(
    scope="parity",
    unit="tensors",
    formula="#{W1 != cast(W0), bit for bit; cast: once to the type of W1, to nearest even}",
    source="definition; IEEE 754-2019, 4.3.1",
    covers=True,
)
def unequal_tensors(evidence: ParityEvidence) -> list[Finding]:
    """Tensors that are not the original, cast once to the type they are stored in.

    Float8 is multiplied by its scales in float32 first and rounded once to the model's type; a tensor that was
    quantised to float8 has to lie within half a step of float8. Raises CheckpointError if a file is damaged.
    """
    return list(conversions.conversion_faults(evidence.pair))


@findings_metric(scope="parity", unit="tensors", formula="#{W1 stored in float8, W0 in a wider type}")
def quantised_tensors(evidence: ParityEvidence) -> list[Finding]:
    """Tensors that the conversion put into float8, with their relative change."""
    return list(conversions.quantised(evidence.pair))
