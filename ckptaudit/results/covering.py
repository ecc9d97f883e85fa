"""From verdicts to coverage: which weights a check judged, and why others were left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ckptaudit.judging.judge import Measured, admitted, rows_of
from ckptaudit.judging.plan import AuditPlan, PlannedVerdict, limits_update
from ckptaudit.judging.selection import selected
from ckptaudit.judging.verdict import Verdict
from ckptaudit.metrics.coverage import BEYOND
from ckptaudit.pairing import AlignedTensor
from ckptaudit.pairing.model_pair import FLOATING
from ckptaudit.pairing.runs import Run
from ckptaudit.results.coverage import UNLIMITED, Coverage, LeftOut, RoleCoverage
from ckptaudit.results.gate import JUDGED

LISTED = 200
"""How many tensors that were left out are named."""


def coverage_of(plan: AuditPlan, verdicts: Sequence[Verdict], measurements: Measured, run: Run) -> Coverage:
    """What the verdicts given judged of a run's weights."""
    checks = _judging_checks(plan, verdicts, measurements, run)
    weights = [t for t in run.pair.aligned if t.tuned.dtype in FLOATING and t.tuned.parameters]
    apart = list(_not_compared(run))
    blind = [LeftOut(t.name, _why(t), t.tuned.parameters) for t in weights if t.name not in checks]
    roles = tuple(_by_role(weights, checks))
    return Coverage(
        tuned=run.path,
        tensors=len(weights) + len(apart),
        judged=sum(role.judged for role in roles),
        parameters=sum(role.parameters for role in roles) + sum(item.parameters for item in apart),
        judged_parameters=sum(role.judged_parameters for role in roles),
        roles=roles,
        left_out=tuple([*apart, *blind][:LISTED]),
    )


def _judging_checks(
    plan: AuditPlan, verdicts: Sequence[Verdict], measurements: Measured, run: Run
) -> dict[str, dict[str, None]]:
    """By weight, the checks that judged it."""
    given = {(v.tuned, v.check, v.subject) for v in verdicts if v.outcome in JUDGED}
    found: dict[str, dict[str, None]] = {}
    for planned in plan.verdicts:
        key = (planned.run.path, planned.check.id, planned.subject)
        if planned.run is run and key in given and limits_update(planned.check):
            for name in _admitted_weights(planned, measurements):
                found.setdefault(name, {})[planned.check.id] = None
    return found


def _admitted_weights(planned: PlannedVerdict, measurements: Measured) -> Iterator[str]:
    check = planned.check
    tensors = selected(check, planned.run.pair, planned.subject)
    if check.only_where is None:
        yield from (tensor.name for tensor in tensors)
        return
    rows = rows_of(planned, measurements)
    kept = {m.tensor for m in admitted(check, [m for m in rows if m.metric == check.metric], rows)[0]}
    yield from (tensor.name for tensor in tensors if kept.intersection(tensor.matrix_names()))


def _by_role(weights: Sequence[AlignedTensor], checks: Mapping[str, Mapping[str, None]]) -> Iterator[RoleCoverage]:
    by_role: dict[str, list[AlignedTensor]] = {}
    for tensor in weights:
        by_role.setdefault(tensor.place.role, []).append(tensor)
    for role, tensors in by_role.items():
        judged = [tensor for tensor in tensors if tensor.name in checks]
        yield RoleCoverage(
            role=role,
            tensors=len(tensors),
            judged=len(judged),
            parameters=sum(t.tuned.parameters for t in tensors),
            judged_parameters=sum(t.tuned.parameters for t in judged),
            checks=tuple(dict.fromkeys(check for t in judged for check in checks[t.name])),
        )


def _not_compared(run: Run) -> Iterator[LeftOut]:
    for unaligned in run.pair.unaligned:
        handle = run.pair.tuned.tensors.get(unaligned.tensor)
        if unaligned.fault not in (BEYOND, "only in base"):
            yield LeftOut(unaligned.tensor, f"not compared: {unaligned.fault}", handle.parameters if handle else 0)


def _why(tensor: AlignedTensor) -> str:
    return f"{UNLIMITED} {tensor.place.role}"
