"""What the headers of both sides tell of the pair: what does not align, what changed its type."""

from __future__ import annotations

from ckptaudit.findings import Finding
from ckptaudit.metrics.findings import findings_metric
from ckptaudit.pairing import ModelPair


@findings_metric(scope="pair", unit="tensors", formula="#{names that only one side has}")
def unaligned_tensors(pair: ModelPair) -> list[Finding]:
    """Tensors that have no counterpart on the other side."""
    return [u for u in pair.unaligned if u.fault in ("only in base", "only in tuned")]


@findings_metric(scope="pair", unit="tensors", formula="#{names with different shapes}")
def shape_mismatches(pair: ModelPair) -> list[Finding]:
    """Tensors of one name whose shapes differ."""
    return [u for u in pair.unaligned if u.fault == "shapes differ"]


@findings_metric(scope="pair", unit="tensors", formula="#{aligned tensors stored in different types}")
def dtype_mismatches(pair: ModelPair) -> list[Finding]:
    """Aligned tensors that are stored in different types."""
    return [
        Finding(t.name, "types differ", f"base {t.base.dtype}, tuned {t.tuned.dtype}")
        for t in pair.aligned
        if not t.dtypes_agree
    ]
