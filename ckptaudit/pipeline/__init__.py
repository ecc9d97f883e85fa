"""From two paths to a result in five functions, which all front ends call: open, plan, execute, judge, assemble."""

from __future__ import annotations

from ckptaudit.judging.judge import judge
from ckptaudit.pipeline.assembly import assemble
from ckptaudit.pipeline.execution import execute, measure_metric
from ckptaudit.pipeline.opening import OpenedAudit, open_audit
from ckptaudit.pipeline.planning import ChosenChecks, choose_checks, plan

__all__ = [
    "ChosenChecks",
    "OpenedAudit",
    "assemble",
    "choose_checks",
    "execute",
    "judge",
    "measure_metric",
    "open_audit",
    "plan",
]
