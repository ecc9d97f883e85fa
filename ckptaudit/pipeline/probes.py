"""The probes of an audit: read, tried on every pair, and looked through for what a check needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ckptaudit.behavior.facts import ProbeFacts
from ckptaudit.behavior.preparation import ProbeSet, prepare
from ckptaudit.behavior.probes import read_probes
from ckptaudit.behavior.verdict_files import read_verdicts, unjudged
from ckptaudit.checkpoints import Checkpoint
from ckptaudit.errors import ProbeError, parameter, printable
from ckptaudit.judging.checks import Check
from ckptaudit.judging.probes import is_about_set
from ckptaudit.metrics.behavior import probes_metric_of
from ckptaudit.options import AuditOptions
from ckptaudit.pairing.auxiliary import Auxiliary
from ckptaudit.pairing.runs import Run


def open_probes(options: AuditOptions) -> ProbeSet | None:
    """The probes that the options name, with verdicts on them; None where they name none. Raises ProbeError."""
    path, given = options.auxiliary.get("probes"), options.auxiliary.get("verdicts")
    if path is None:
        if options.probe_rows is not None:
            raise ProbeError(
                f"{parameter('probe_rows')} {printable(options.probe_rows)}: rows are of probes; give "
                f"{parameter('probes')} FILE as well."
            )
        if given is not None:
            raise ProbeError(
                f"{parameter('verdicts')} {printable(given)}: verdicts are joined with probes by their id; give "
                f"{parameter('probes')} FILE as well."
            )
        return None
    probes = ProbeSet(path, tuple(read_probes(Path(path))), dtype=options.dtype, rows=_asked(options))
    return probes if given is None else replace(probes, verdicts=read_verdicts(Path(given), probes.ids))


def notes_of(probes: ProbeSet | None) -> tuple[str, ...]:
    """What a reader should know of what was given with the probes."""
    if probes is None or not probes.verdicts.rows:
        return ()
    return tuple(unjudged(probes.verdicts, probes.ids))


def prepared(
    probes: ProbeSet | None, facts: ProbeFacts, base: Checkpoint, runs: Sequence[Run], inputs: Auxiliary
) -> ProbeSet | None:
    """The probes as the configuration wants them run, tried on every pair.

    Raises ProbeError or MeasurementError: a request that cannot be run ends before anything is measured.
    """
    if probes is None:
        return None
    weak = inputs.given["weak"].opened if "weak" in inputs.given else None
    wanted = replace(probes, facts=facts, weak=weak, done={}, rows=_numbered(probes.rows, runs))
    for run in runs:
        prepare(wanted, base, run.pair.tuned)
    return wanted


def _asked(options: AuditOptions) -> dict[str, Path]:
    return {} if options.probe_rows is None else {"": Path(options.probe_rows).absolute()}


def _numbered(asked: Mapping[str, Path], runs: Sequence[Run]) -> dict[str, Path]:
    """The file for each run: the one that was asked for, of several runs numbered from 1."""
    path = asked.get("")
    if path is None or len(runs) == 1:
        return {run.path: path for run in runs if path is not None}
    width = len(str(len(runs)))
    names = (f"{path.stem}-{number:0{width}}{path.suffix}" for number in range(1, len(runs) + 1))
    return {run.path: path.with_name(name) for run, name in zip(runs, names, strict=True)}


def without_probes(probes: ProbeSet | None, check: Check) -> str:
    """Why no probe of the file can tell of a check; empty where some can."""
    assert probes is not None  # without them the check is said to miss them
    metric = probes_metric_of(check.metric)
    fitting = {probe.set for probe in probes.probes if metric.fits(probe)}
    if not fitting:
        return f"no probe has what it needs: {metric.asks}"
    if metric.among is not None:
        told = metric.among(probes.verdicts)
        fitting = {probe.set for probe in probes.probes if metric.fits(probe) and probe.id in told}
    if not fitting:
        return f"{parameter('verdicts')}: no line tells of {metric.name}"
    if not any(is_about_set(check, name) for name in fitting):
        return f"no probe set with {metric.asks} is among {', '.join(check.sets)}"
    return ""
