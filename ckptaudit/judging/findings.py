"""Deciding checks that count findings: faults of files and tensors, each a record."""

from __future__ import annotations

from collections.abc import Iterable

from ckptaudit.judging.checks import Check
from ckptaudit.judging.limits import Limits
from ckptaudit.judging.outcomes import decided, undecided
from ckptaudit.judging.verdict import Verdict
from ckptaudit.metrics import Measurement

FINDINGS_KEPT = 100
"""How many findings a verdict names; its value counts all."""


def decide_findings(
    check: Check,
    subject: str,
    tuned: str,
    measured: Measurement,
    limits: Limits,
    excluded: frozenset[str] = frozenset(),
) -> Verdict:
    """Decide a check that counts findings: how many against how many allowed."""
    if measured.value is None:
        return undecided(check, subject, tuned, "error", measured.remark, limits)
    findings = [finding for finding in measured.findings if finding.tensor not in excluded]
    return decided(
        check,
        subject,
        tuned,
        float(len(findings)),
        limits.usual,
        worst=findings[0].tensor if findings else None,
        kind="exact",
        method=measured.method,
        reason="; ".join(map(str, findings[:8])),
        findings=tuple(findings[:FINDINGS_KEPT]),
    )


def found_in(measured: Iterable[Measurement]) -> frozenset[str]:
    """What the findings are about: tensors by name, and places in files."""
    return frozenset(finding.tensor for m in measured for finding in m.findings)
