"""Opened checkpoints, checks and a configuration to the verdicts that are to be given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ckptaudit.behavior.preparation import ProbeSet
from ckptaudit.errors import CheckDefinitionError, CheckpointError, parameter, printable
from ckptaudit.judging.check_files import CheckFile, load_checks
from ckptaudit.judging.checks import Check
from ckptaudit.judging.config import Config, check_files
from ckptaudit.judging.effective_config import EffectiveConfig
from ckptaudit.judging.plan import AuditPlan, PlannedVerdict
from ckptaudit.judging.profiles import default_profile, profile_named
from ckptaudit.judging.selection import MODEL, may_lack, selected, subjects
from ckptaudit.judging.verdict import NO_SUCH_WEIGHTS, NOTHING_SELECTED
from ckptaudit.measurement.jobs import Computing
from ckptaudit.measurement.run_groups import judged_runs
from ckptaudit.metrics import METRICS, MatrixMetric, ProbesMetric, RunsMetric
from ckptaudit.options import AUXILIARY
from ckptaudit.pairing.runs import Run
from ckptaudit.pipeline.logs import of_rollouts, without_weights
from ckptaudit.pipeline.opening import OpenedAudit
from ckptaudit.pipeline.probes import prepared, without_probes
from ckptaudit.results.baseline import Baseline, load_baseline, refuse_factor

ROLLOUTS_ALONE = "rollouts"
"""The profile where no weights were given; of its files, those that judge rollouts."""

NO_GROUP = {
    "steps": "it compares checkpoints of one run, and the tuned side names no two of one",
    "siblings": "it compares runs from one base, and the tuned side names fewer than three",
}
"""Why a check has nothing to compare, by what it compares."""

TOO_FEW = "it takes more checkpoints of a run, or checkpoints farther apart"


@dataclass(frozen=True, slots=True)
class ChosenChecks:
    """The check files of a profile and a configuration; `known` are further ones that a configuration may name."""

    profile: str
    files: tuple[CheckFile, ...]
    known: tuple[CheckFile, ...]


def choose_checks(opened: OpenedAudit, config: Config) -> ChosenChecks:
    """The checks of the profile, those that join for several runs, rollouts or probes, and the configuration's own.

    Without a pair these are the checks of rollouts alone. Raises CheckDefinitionError for a bad file or profile.
    """
    if not opened.has_pair:
        return _without_pair(opened, config)
    profile = profile_named(opened.options.profile or config.profile or default_profile())
    standing = check_files(config, opened.options.profile)
    joins = {*opened.compares, *opened.auxiliary.given, *(("rollouts",) if opened.logs else ())}
    joining = {
        name: tuple(map(load_checks, paths))
        for name, paths in profile.companions.items()
        if name in joins or config.overrides or config.waivers
    }
    joined = tuple(file for name, files in joining.items() if name in joins for file in files)
    return ChosenChecks(
        profile.name, (*standing, *joined), (*standing, *(f for fs in joining.values() for f in fs))
    )


def plan(
    opened: OpenedAudit,
    checks: Sequence[CheckFile],
    config: Config,
    baseline: Baseline | None = None,
    *,
    known: Sequence[CheckFile] = (),
) -> AuditPlan:
    """The verdicts that these check files ask for, in order. A check that selects nothing still asks for one.

    Without a pair, checks of weights are passed over. Raises ConfigError if the configuration names checks,
    subjects or tensors that are not there, CheckDefinitionError where nothing is left to judge.
    """
    options = opened.options
    if not opened.has_pair:
        config, checks = without_weights(config, (*checks, *known)), _files_of_rollouts(checks)
    pairs = {run.path: run.pair for run in opened.runs}
    effective = EffectiveConfig(
        config, checks, pairs, known=known, strict=options.strict, forgiving=options.waivers
    )
    planned = (v for file in checks for v in _planned(opened, file, effective, baseline))
    return AuditPlan(
        verdicts=tuple(planned),
        runs=opened.runs,
        groups=opened.groups,
        auxiliary=opened.auxiliary,
        config=effective,
        computing=Computing(opened.device, opened.batch_bytes, cache=opened.cache),
        exact=options.exact,
        complete=options.complete,
        logs=opened.logs,
        checkpoint_steps=opened.checkpoint_steps,
        probes=_prepared(opened, checks, config),
    )


def baseline_of(opened: OpenedAudit) -> Baseline | None:
    """The released run's audit that the options name. Raises ReportError or BaselineError."""
    options = opened.options
    refuse_factor(options.against_factor)
    if options.against is None:
        return None
    base = opened.base if opened.has_pair else None
    return load_baseline(Path(options.against), base, factor=options.against_factor)


def _without_pair(opened: OpenedAudit, config: Config) -> ChosenChecks:
    asked = opened.options.profile
    if asked not in ("", ROLLOUTS_ALONE):
        raise CheckDefinitionError(
            f"{parameter('profile')} {printable(asked)}: judges weights; give {parameter('base')} PATH and "
            f"{parameter('tuned')} PATH, or leave it out to judge the rollouts alone."
        )
    standing = check_files(config, ROLLOUTS_ALONE)
    return ChosenChecks(ROLLOUTS_ALONE, tuple(f for f in standing if of_rollouts(f).checks), standing)


def _files_of_rollouts(files: Sequence[CheckFile]) -> tuple[CheckFile, ...]:
    found = tuple(map(of_rollouts, files))
    if files and not any(file.checks for file in found):
        raise CheckDefinitionError(
            f"{printable(files[0].path)}: checks judge a pair of checkpoints; give {parameter('base')} PATH and "
            f"{parameter('tuned')} PATH."
        )
    return found


def _planned(
    opened: OpenedAudit, file: CheckFile, effective: EffectiveConfig, baseline: Baseline | None
) -> Iterator[PlannedVerdict]:
    for written in file.checks:
        check = effective.effective(written)
        for run in _judged(opened, check):
            limits = effective.limits(written, run.path, file.home(written))
            judged = subjects(check, run.pair)
            incomparable = _incomparable(opened, check, run, judged)
            group = next((g for g in opened.groups if g.over == check.over and run in g.runs), None)
            for subject in list(judged) or [MODEL]:
                yield PlannedVerdict(
                    check,
                    run,
                    subject,
                    limits,
                    waivers=effective.waivers(written, run.path),
                    released=baseline.released(check, subject) if baseline else None,
                    path=file.path,
                    group=group,
                    skip=_lacking(opened, check, run, subject),
                    cannot=incomparable or _rounded_away(check, run, subject),
                )


def _judged(opened: OpenedAudit, check: Check) -> Sequence[Run]:
    metric = METRICS[check.metric]
    if check.scope == "rollouts":
        return [run for run in opened.runs if run.path in opened.logs] or opened.runs[:1]
    if check.over is None or not isinstance(metric, RunsMetric | ProbesMetric):
        return opened.runs
    return judged_runs(metric, opened.groups) or opened.runs[:1]


def _lacking(opened: OpenedAudit, check: Check, run: Run, subject: str) -> str:
    """Why there is nothing to judge by: an input that was not given, or that holds none of the weights."""
    if check.counts_findings:
        _refuse_without(opened, check)
        return ""
    if check.scope == "rollouts":
        missing = opened.auxiliary.missing(METRICS[check.metric].needs)
        return missing or (opened.logs[run.path].lacking(check.metric) if run.path in opened.logs else "")
    if check.scope == "probes":
        missing = opened.auxiliary.missing(METRICS[check.metric].needs)
        return missing or _without_saves(opened, check) or without_probes(opened.probes, check)
    if _compares_none(opened, check):
        return TOO_FEW
    tensors = selected(check, run.pair, subject)
    if not tensors:
        return NO_SUCH_WEIGHTS + ", ".join(check.roles) if may_lack(check, run.pair) else ""
    needs = METRICS[check.metric].needs
    return opened.auxiliary.lacking(needs, tensors) if needs else ""


def _without_saves(opened: OpenedAudit, check: Check) -> str:
    """Why a check of probes that compares the saves of a run has nothing to compare; empty for any other."""
    return "" if check.over is None or check.over in opened.compares else NO_GROUP[check.over]


def _prepared(opened: OpenedAudit, checks: Sequence[CheckFile], config: Config) -> ProbeSet | None:
    asked = any(check.scope == "probes" for file in checks for check in file.checks)
    return prepared(opened.probes, config.probes, opened.base, opened.runs, opened.auxiliary) if asked else None


def _compares_none(opened: OpenedAudit, check: Check) -> bool:
    """Whether there are runs of the kind that the check compares, but none that its metric says anything about."""
    metric = METRICS[check.metric]
    return (
        isinstance(metric, RunsMetric) and metric.over in opened.compares and not judged_runs(metric, opened.groups)
    )


def _refuse_without(opened: OpenedAudit, check: Check) -> None:
    """What compares files is no claim about a pair alone: without the other files there is nothing to ask."""
    if check.scope != "parity":
        return
    given = {*opened.auxiliary.given, *(("adapter",) if opened.base.merged_from is not None else ())}
    for name in METRICS[check.metric].needs:
        if name not in given:
            wanted = f"{parameter(name)} {AUXILIARY[name].metavar}"
            raise CheckDefinitionError(f"check {check.id}: needs {wanted}, {AUXILIARY[name].help}.")
    _refuse_itself(opened)


def _refuse_itself(opened: OpenedAudit) -> None:
    """A file is always equal to itself; no claim of parity can fail where one path is given as both."""
    sides = [("base", opened.options.base)]
    sides += [(name, c.path) for name, one in opened.auxiliary.given.items() for c in one.checkpoints]
    for name, path in sides:
        for run in opened.runs:
            if Path(path).resolve() == Path(run.path).resolve():
                raise CheckpointError(
                    f"{parameter(name)} and {parameter('tuned')} are one path, {printable(path)}."
                )


def _incomparable(opened: OpenedAudit, check: Check, run: Run, judged: Mapping[str, bool]) -> str:
    metric = METRICS[check.metric]
    if isinstance(metric, RunsMetric) and run not in judged_runs(metric, opened.groups):
        return "" if _compares_none(opened, check) else NO_GROUP[metric.over]
    elsewhere = check.counts_findings or check.scope in ("rollouts", "probes")
    if elsewhere or any(judged.values()) or may_lack(check, run.pair):
        return ""
    return NOTHING_SELECTED


def _rounded_away(check: Check, run: Run, subject: str) -> str:
    """Why an update cannot be measured: one side went through an eight-bit type and the other did not."""
    metric = METRICS[check.metric]
    if not isinstance(metric, MatrixMetric) or metric.tolerates_nonfinite or not run.pair.has_quantised_apart:
        return ""
    apart = [tensor for tensor in selected(check, run.pair, subject) if tensor.is_quantised_apart]
    if not apart:
        return ""
    first = apart[0]
    return (
        f"{printable(first.name)} is stored in {first.tuned.precision} on the tuned side and in "
        f"{first.base.precision} in the base, and its update cannot be seen through that rounding; audit the "
        "unquantised weights instead"
    )
