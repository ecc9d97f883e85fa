"""Verdicts and measurements to the result that every report renders."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from platform import python_version

from msgspec import structs

from ckptaudit.errors import CkptAuditError, Spelling, parameter, python_spelling, spelled
from ckptaudit.judging.plan import AuditPlan
from ckptaudit.judging.verdict import Verdict
from ckptaudit.measurement.store import MeasurementStore
from ckptaudit.metrics import Measurement
from ckptaudit.metrics.descriptions import scope_of
from ckptaudit.pipeline.curves import MOST, spectrum_record, worst_matrices
from ckptaudit.pipeline.inputs import policy_inputs
from ckptaudit.pipeline.opening import OpenedAudit
from ckptaudit.results.baseline import Baseline
from ckptaudit.results.behavior import BehaviorRecord, behavior_records
from ckptaudit.results.covering import coverage_of
from ckptaudit.results.inputs import InputRecord
from ckptaudit.results.records import LEFT_OUT, About, AuditResult, CheckRecord, SpectrumRecord, check_record
from ckptaudit.results.rollouts import RolloutsRecord, rollouts_record
from ckptaudit.results.summary import Summary
from ckptaudit.results.trajectories import notes_of, siblings_of, trajectory_of
from ckptaudit.rollouts.distributions import Distributions, distributions

logger = logging.getLogger(__name__)

PACKAGES = ("ckptaudit", "torch", "safetensors", "numpy", "pytest")


def assemble(
    opened: OpenedAudit,
    plan: AuditPlan,
    verdicts: Sequence[Verdict],
    measurements: MeasurementStore,
    *,
    profile: str = "",
    baseline: Baseline | None = None,
    spelling: Spelling = python_spelling,
    spectra: Sequence[SpectrumRecord] = (),
    drawn: Mapping[str, Distributions] | None = None,
) -> AuditResult:
    """All that was found, with parameters written as `spelling` says.

    Raises CheckpointError if a file is gone whose fingerprint is not known yet.
    """
    rows = _rows(measurements, spelling)
    verdicts = tuple(verdicts)
    steps = [group for group in plan.groups if group.over == "steps"]
    siblings = [group for group in plan.groups if group.over == "siblings"]
    behavior = _behavior(opened, measurements)
    trajectories = tuple(trajectory_of(group, rows, verdicts) for group in steps)
    return AuditResult(
        base=opened.options.base,
        tuned=tuple(run.path for run in opened.runs if opened.has_pair),
        summary=Summary.of(verdicts),
        unaligned=tuple(dict.fromkeys(str(u) for run in opened.runs for u in run.pair.unaligned)),
        measurements=rows,
        verdicts=verdicts,
        notes=(
            *dict.fromkeys(
                spelled(note, spelling)
                for note in (*(n for run in opened.runs for n in run.pair.notes), *opened.notes)
            ),
            *dict.fromkeys(note for record in behavior for note in record.excerpt.notes),
            *notes_of(trajectories),
            *(spelled(remark, spelling) for remark in (baseline.remarks(verdicts) if baseline else ())),
            *plan.config.remarks(verdicts),
        ),
        trajectories=trajectories,
        siblings=tuple(siblings_of(group, rows, verdicts) for group in siblings),
        against=baseline.record if baseline else None,
        checkpoints=opened.checkpoints,
        checks=_checks(plan, verdicts),
        about=about(opened, profile),
        coverage=tuple(coverage_of(plan, verdicts, measurements, r) for r in opened.runs if opened.has_pair),
        rollouts=_rollouts(opened, verdicts, measurements, spelling, drawn or {}),
        behavior=behavior,
        inputs=_inputs(opened, plan, profile),
        not_judged=tuple(spelled(line, spelling) for line in _not_judged(opened, plan, verdicts)),
        spectra=tuple(spectra),
    )


def about(opened: OpenedAudit, profile: str = "") -> About:
    """How the audit is made, as of now."""
    return About(
        command=opened.options.command,
        profile=profile,
        device=str(opened.device),
        exact=opened.options.exact,
        started=opened.started.isoformat(timespec="seconds"),
        seconds=round((datetime.now(UTC) - opened.started).total_seconds(), 3),
        inputs=opened.auxiliary.paths,
        versions={"python": python_version(), **{name: version(name) for name in PACKAGES}},
    )


def curves(opened: OpenedAudit, verdicts: Sequence[Verdict]) -> tuple[SpectrumRecord, ...]:
    """The worst matrices decomposed in full, for the page: curves that no verdict needs.

    A file that has gone since is no reason to lose the page: its matrix is left out.
    """
    most = max(1, MOST // len(opened.runs))
    rows = (
        spectrum_record(run.path, matrix, opened.device)
        for run in opened.runs
        for matrix in worst_matrices((v for v in verdicts if v.tuned == run.path), run.pair, most=most)
    )
    return tuple(row for row in rows if row is not None)


def _rollouts(
    opened: OpenedAudit,
    verdicts: Sequence[Verdict],
    measurements: MeasurementStore,
    spelling: Spelling,
    drawn: Mapping[str, Distributions],
) -> tuple[RolloutsRecord, ...]:
    entries = [entry for entry in measurements.entries() if entry.unit.scope == "rollouts"]
    found = []
    for run, log in opened.logs.items():
        measured = [m for entry in entries if entry.unit.run == run for m in entry.measurements]
        record = rollouts_record(run, log, verdicts, measured)
        said = tuple(structs.replace(u, reason=spelled(u.reason, spelling)) for u in record.unjudged)
        found.append(structs.replace(record, unjudged=said, distributions=drawn.get(run)))
    return tuple(found)


def _behavior(opened: OpenedAudit, measurements: MeasurementStore) -> tuple[BehaviorRecord, ...]:
    entries = [entry for entry in measurements.entries() if entry.unit.scope == "probes"]
    path = opened.probes.path if opened.probes is not None else ""
    return behavior_records([m for entry in entries for m in entry.measurements], path)


def distributions_of(opened: OpenedAudit) -> dict[str, Distributions]:
    """What the page draws of each log, by run: one more pass over it. A log that has gone since is left out."""
    found = {}
    for run, log in opened.logs.items():
        try:
            found[run] = distributions(log.table)
        except CkptAuditError:
            logger.debug("a log could not be read again", exc_info=True)
    return found


def _inputs(opened: OpenedAudit, plan: AuditPlan, profile: str) -> tuple[InputRecord, ...]:
    return (*opened.inputs, *policy_inputs(plan.config, profile)) if opened.options.digest else ()


def _not_judged(opened: OpenedAudit, plan: AuditPlan, verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    """The kinds of evidence that this audit had nothing of, or nothing that could be judged; checks left out."""
    others = [said for name, said in OTHER_EVIDENCE.items() if name not in opened.auxiliary.given]
    on_probes = {v.outcome for v in verdicts if scope_of(v.metric) == "probes"}
    others += [NO_PROBE_TELLS] if "probes" in opened.auxiliary.given and on_probes == {"skipped"} else []
    others += _left_out(plan, verdicts)
    return tuple(others if opened.has_pair else (WEIGHTS, *others))


def _left_out(plan: AuditPlan, verdicts: Sequence[Verdict]) -> list[str]:
    """One line where checks of the chosen files have no verdict at all."""
    every = list(dict.fromkeys(planned.check.id for planned in plan.verdicts))
    judged = {v.check for v in verdicts}
    without = [check for check in every if check not in judged]
    if not without:
        return []
    named = ", ".join(without[:NAMED]) + (f" and {len(without) - NAMED} more" if len(without) > NAMED else "")
    return [f"{LEFT_OUT}{len(without)} of {len(every)} (by -k, -m, --deselect or an early end): {named}"]


NAMED = 3
"""How many of the checks left out are named."""


NO_PROBE_TELLS = f"behavior: every check on {parameter('probes')} was skipped"
"""What is said where probes were given that no check could be judged by."""


WEIGHTS = f"weights and files: give {parameter('base')} PATH and {parameter('tuned')} PATH"
"""What is said where rollouts alone were given."""


OTHER_EVIDENCE = {
    "probes": f"behavior: give {parameter('probes')} FILE",
    "rollouts": f"rollouts: give {parameter('rollouts')} PATH",
}
"""Kinds of evidence that no default check looks at, by the input that brings some of it."""


def _rows(measurements: MeasurementStore, spelling: Spelling) -> tuple[Measurement, ...]:
    """Numbers by run, in the order of the units; findings stand in the verdicts."""
    found = (m for entry in measurements.entries() if entry.unit.scope in NUMBERS for m in entry.measurements)
    found = (m for m in found if m.excerpt is None)  # which is shown apart
    return tuple(sorted((_respelled(m, spelling) for m in found), key=lambda m: m.tuned))


def _respelled(m: Measurement, spelling: Spelling) -> Measurement:
    return structs.replace(m, remark=spelled(m.remark, spelling)) if m.remark else m


NUMBERS = ("matrix", "group", "runs", "probes")
"""Scopes whose measurements are numbers of tensors or of probe sets."""


def _checks(plan: AuditPlan, verdicts: Sequence[Verdict]) -> tuple[CheckRecord, ...]:
    """The checks about which a verdict was given, as they were applied."""
    applied = {planned.check.id: planned for planned in plan.verdicts}
    return tuple(
        check_record(applied[name].check, applied[name].path.name)
        for name in dict.fromkeys(v.check for v in verdicts)
        if name in applied
    )
