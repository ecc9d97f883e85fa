"""Results of made-up numbers, where only size, names and outcomes matter."""

from __future__ import annotations

from ckptaudit.judging.verdict import Verdict
from ckptaudit.metrics import Measurement
from ckptaudit.results.records import AuditResult, CheckRecord
from ckptaudit.results.summary import Summary

ROLES = ("q_proj", "k_proj", "v_proj", "o_proj")
METRIC = "normalized_spectral_shift"


def check(
    name: str, *, limit: float = 0.001, metric: str = METRIC, roles: tuple[str, ...] = ("matrix",)
) -> CheckRecord:
    return CheckRecord(
        id=name,
        file="ours.toml",
        claim=f"What {name} claims.",
        metric=metric,
        unit="1",
        sign="<=",
        limit=limit,
        per="layer",
        judge_by="worst",
        severity="gate",
        source="ours",
        published="",
        note="",
        remedy="Look.",
        roles=roles,
    )


def measured(tensor: str, layer: int | None, role: str, value: float | None) -> Measurement:
    return Measurement(tensor, layer, role, (8, 8), METRIC, value, "exact", tuned="tuned")


def verdict(
    subject: str,
    value: float | None,
    *,
    name: str = "drift",
    limit: float = 0.001,
    outcome: str = "",
    worst: str | None = None,
    severity: str = "gate",
    tuned: str = "tuned",
    reason: str = "",
) -> Verdict:
    ended = outcome or ("error" if value is None else "passed" if value <= limit else "failed")
    return Verdict(
        tuned=tuned,
        check=name,
        subject=subject,
        outcome=ended,  # type: ignore[arg-type]
        worst=worst,
        value=value,
        kind="exact" if value is not None else None,
        limit=limit,
        source="ours",
        metric=METRIC,
        sign="<=",
        severity=severity,  # type: ignore[arg-type]
        reason=reason,
        test=f"ours.toml::{name}[{subject}]",
    )


def result(
    verdicts: list[Verdict],
    measurements: list[Measurement] | None = None,
    checks: list[CheckRecord] | None = None,
    tuned: tuple[str, ...] = ("tuned",),
) -> AuditResult:
    names = dict.fromkeys(v.check for v in verdicts)
    return AuditResult(
        base="base",
        tuned=tuned,
        summary=Summary.of(verdicts),
        unaligned=(),
        measurements=tuple(measurements or ()),
        verdicts=tuple(verdicts),
        checks=tuple(checks or (check(name) for name in names)),
    )


def large(*, layers: int, experts: int, broken: int = 7) -> AuditResult:
    """A model whose layer `broken` is broken in one expert alone; without experts, in its v_proj."""
    rows, verdicts = [], []
    for layer in range(layers):
        at = f"model.layers.{layer}"
        for role in ROLES:
            bad = layer == broken and not experts and role == "v_proj"
            rows.append(measured(f"{at}.self_attn.{role}.weight", layer, role, 0.005 if bad else 1e-5))
        for expert in range(experts):
            bad = layer == broken and expert == experts - 1
            rows.append(
                measured(f"{at}.mlp.experts.{expert}.up_proj.weight", layer, "up_proj", 0.05 if bad else 1e-5)
            )
        worst = max((r for r in rows if r.layer == layer), key=lambda r: r.value or 0.0)
        verdicts.append(verdict(f"layers.{layer}", worst.value, worst=worst.tensor))
    return result(verdicts, rows)
