"""How much was judged, in lines that every report in words shows alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ckptaudit.report.appearance import first_few
from ckptaudit.results.coverage import UNLIMITED, Coverage, LeftOut
from ckptaudit.results.records import AuditResult
from ckptaudit.results.rollouts import RolloutsRecord

ROLES_SHOWN = 6


def coverage_lines(result: AuditResult) -> Iterator[str]:
    """For each run what was judged and by how many checks, what was left out, and which evidence was not given."""
    several = len(result.coverage) > 1
    for coverage in result.coverage:
        yield f"judged{f' of {coverage.tuned}' if several else ''}: {amount(coverage)}"
        yield from (f"left out: {line}" for line in left_out(coverage))
    yield from (f"not judged: {line}" for line in result.not_judged)
    for log in result.rollouts:
        yield from rollouts_lines(log)


def rollouts_lines(log: RolloutsRecord) -> Iterator[str]:
    """`rollouts judged: 20 steps from 1 to 20 of runs/42 (verl), by 31 of 50 checks`; why others could not be."""
    steps = (
        f"{log.steps:,} step{'s' * (log.steps != 1)} from {log.first_step} to {log.last_step}"
        if log.steps
        else "no step"
    )
    yield f"rollouts judged: {steps} of {log.path} ({log.trainer}), by {log.judged} of {log.checks} checks"
    for left in log.unjudged:
        yield f"could not be judged: {first_few(left.checks, 3)}: {left.reason}"


def amount(coverage: Coverage) -> str:
    """`48 of 51 tensors, 99.8 % of the parameters, by 14 checks`."""
    checks = {check for role in coverage.roles for check in role.checks}
    share = f"{100 * coverage.share:.4g} % of the parameters"
    if 0.9995 <= coverage.share < 1:
        share = f"all but {coverage.parameters - coverage.judged_parameters:,} parameters"
    by = f"by {len(checks)} check{'' if len(checks) == 1 else 's'}" if checks else "by no check"
    return f"{coverage.judged} of {coverage.tensors} tensors, {share}, {by}"


def left_out(coverage: Coverage) -> list[str]:
    """The tensors that no check judged, in a line for each reason; roles that no check limits share one."""
    reasons: dict[str, list[LeftOut]] = {}
    for item in coverage.left_out:
        reasons.setdefault(UNLIMITED if item.reason.startswith(UNLIMITED) else item.reason, []).append(item)
    return [_line(reason, items, coverage) for reason, items in reasons.items()]


def _line(reason: str, items: Sequence[LeftOut], coverage: Coverage) -> str:
    if reason != UNLIMITED or len(items) == 1:
        return f"{first_few([item.tensor for item in items], 3)}: {items[0].reason}"
    roles = [role.role for role in coverage.roles if role.judged < role.tensors]
    whose = f"role{'' if len(roles) == 1 else 's'} {first_few(roles, ROLES_SHOWN)}"
    # The list is cut in a large model, the roles count all.
    total = sum(role.tensors - role.judged for role in coverage.roles)
    return f"{total} tensors such as {items[0].tensor}: no check that was judged limits the {whose}"
