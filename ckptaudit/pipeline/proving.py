"""Every check broken by its own damage: what `breaks_when` promises, tried on a pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ckptaudit.artifact import open_artifact
from ckptaudit.behavior.facts import ProbeFacts
from ckptaudit.checkpoints import Checkpoint
from ckptaudit.damages import artifact as artifact_damages
from ckptaudit.damages import behavior as behavior_damages
from ckptaudit.damages import parity, roles, stale, verdicts  # noqa: F401  # they add to those of weights and behavior
from ckptaudit.damages import runs as run_damages
from ckptaudit.damages import weights as weight_damages
from ckptaudit.judging.check_files import CheckFile
from ckptaudit.judging.checks import Check
from ckptaudit.judging.config import Config
from ckptaudit.judging.findings import decide_findings
from ckptaudit.judging.judge import judge
from ckptaudit.judging.limits import Limits
from ckptaudit.judging.selection import MODEL
from ckptaudit.judging.verdict import Verdict
from ckptaudit.metrics import Measurement, findings_metric_of
from ckptaudit.pairing import pair_checkpoints
from ckptaudit.pairing.runs import Run
from ckptaudit.pipeline.execution import execute
from ckptaudit.pipeline.opening import OpenedAudit
from ckptaudit.pipeline.planning import plan


@dataclass(frozen=True, slots=True)
class Proof:
    """What a check said of the pair as it is, and after its damage; of that nothing where it could not be tried."""

    check: Check
    intact: tuple[Verdict, ...]
    damaged: tuple[Verdict, ...]

    @property
    def breaks(self) -> bool:
        """Whether the damage broke the check."""
        return any(verdict.outcome == "failed" for verdict in self.damaged)

    @property
    def needs(self) -> str:
        """Why the check could not be tried on this pair; empty where it could.

        An interval too wide to judge the intact pair by may yet be clear of the limit once it is damaged.
        """
        if self.breaks or any(verdict.value is not None for verdict in self.damaged):
            return ""
        untried = [v for v in self.intact if v.outcome in ("skipped", "error")]
        return untried[0].reason if len(untried) == len(self.intact) else ""


def prove(opened: OpenedAudit, check: Check, file: CheckFile, probes: ProbeFacts | None = None) -> Proof:
    """Judge a check on the pair and on the pair after its `breaks_when`. Raises CkptAuditError.

    `probes` says how probes are run.
    """
    config = replace(_config(opened, check), probes=probes or ProbeFacts())
    planned = plan(opened, [replace(file, checks=(check,))], config)
    intact = Proof(check, judge(planned, execute(planned)), ())
    tried = check.scope == "probes" and any(v.units for v in planned.verdicts)
    if intact.needs and not tried:
        # A damage may work with the very input that is missing.
        return intact
    if check.scope == "artifact":
        return replace(intact, damaged=tuple(_of_damaged_files(run, check) for run in opened.runs))
    if check.scope == "rollouts":
        return replace(intact, damaged=_judged(_with_damaged_log(opened, check), check, file, config))
    if check.scope == "probes":
        return replace(intact, damaged=_judged(_with_damaged_behavior(opened, check), check, file, config))
    return replace(intact, damaged=_judged(damaged(opened, check), check, file, config))


def damaged(opened: OpenedAudit, check: Check) -> OpenedAudit:
    """The audit with the damage done that a check names: to the weights, to the inputs, to a series of runs."""
    if check.over is not None:
        return _with_runs(opened, _damaged_series(opened, check))
    damage = weight_damages.DAMAGES[check.breaks_when]
    broken = [damage(opened.base, run.pair.tuned, opened.auxiliary) for run in opened.runs]
    auxiliary = weight_damages.damaged_inputs(check.breaks_when, opened.auxiliary)
    return replace(_with_runs(opened, broken), auxiliary=auxiliary)


def _with_damaged_log(opened: OpenedAudit, check: Check) -> OpenedAudit:
    # Imported late: pyarrow is an extra, and only rollouts need it.
    from ckptaudit.damages.run_logs import damaged_log

    # Without rollouts the check was skipped on the intact pair.
    logs = {run: damaged_log(log, check.breaks_when) for run, log in opened.logs.items()}
    return replace(opened, logs=logs)


def _with_damaged_behavior(opened: OpenedAudit, check: Check) -> OpenedAudit:
    """The audit with the tuned weights damaged, or what they say on the probes."""
    if check.breaks_when in behavior_damages.MODEL_DAMAGES:
        damage = behavior_damages.MODEL_DAMAGES[check.breaks_when]
        return _with_runs(opened, [damage(opened.base, run.pair.tuned) for run in opened.runs])
    assert opened.probes is not None  # without probes the check was skipped on the intact pair
    return replace(opened, probes=replace(opened.probes, damage=behavior_damages.ROW_DAMAGES[check.breaks_when]))


def _of_damaged_files(run: Run, check: Check) -> Verdict:
    """The verdict on a run whose files, as they were read, have been damaged."""
    evidence = artifact_damages.DAMAGES[check.breaks_when](open_artifact(run.pair.base, run.pair.tuned))
    findings = tuple(findings_metric_of(check.metric).find(evidence))
    counted = Measurement(
        MODEL, None, "", (), check.metric, float(len(findings)), "exact", tuned=run.path, findings=findings
    )
    return decide_findings(check, MODEL, run.path, counted, Limits.own(check))


def _damaged_series(opened: OpenedAudit, check: Check) -> list[Checkpoint]:
    group = next((g for g in opened.groups if g.over == check.over), None)
    if group is None:
        return [run.pair.tuned for run in opened.runs]
    order = [run.pair.tuned for run in group.runs]
    by_path = dict(
        zip((r.path for r in group.runs), run_damages.DAMAGES[check.breaks_when](opened.base, order), strict=True)
    )
    return [by_path.get(run.path, run.pair.tuned) for run in opened.runs]


def _with_runs(opened: OpenedAudit, tuned: Sequence[Checkpoint]) -> OpenedAudit:
    runs = tuple(
        Run(run.label, run.path, pair_checkpoints(opened.base, checkpoint))
        for run, checkpoint in zip(opened.runs, tuned, strict=True)
    )
    at = {run.path: run for run in runs}
    groups = tuple(replace(g, runs=tuple(at[run.path] for run in g.runs)) for g in opened.groups)
    return replace(opened, runs=runs, groups=groups)


def _judged(
    opened: OpenedAudit, check: Check, file: CheckFile, config: Config | None = None
) -> tuple[Verdict, ...]:
    planned = plan(opened, [replace(file, checks=(check,))], config or Config())
    return judge(planned, execute(planned))


def _config(opened: OpenedAudit, check: Check) -> Config:
    """The configuration to prove a check under: a claim about frozen parts needs some that are."""
    if check.metric != "changed_frozen_parts":
        return Config()
    equal = (
        t.name
        for t in opened.runs[0].pair.aligned
        if t.dtypes_agree and bool((t.base.read() == t.tuned.read()).all())
    )
    return Config(frozen=tuple(equal))
