"""One audit: a base, its tuned runs, the checks asked for, and what has been measured so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property, partial
from importlib.metadata import version
from platform import python_version

from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.errors import CheckDefinitionError
from ckptaudit.judging.check_files import Check, CheckFile
from ckptaudit.judging.config import Config
from ckptaudit.judging.effective_config import Terms
from ckptaudit.judging.judge import (
    Verdict,
    broken_tensors,
    finding_about,
    judge,
    judge_group,
    judge_pair,
    skipped,
    undecidable,
)
from ckptaudit.judging.limits import Limits
from ckptaudit.judging.plan import Request, owners, rests_on, settled_by_bounds
from ckptaudit.judging.profiles import Several
from ckptaudit.judging.selection import selected, subjects
from ckptaudit.judging.waivers import forgive
from ckptaudit.measurement.base_cache import FactorCache
from ckptaudit.measurement.jobs import BATCH_BYTES, Job, Route, applies, pick_device
from ckptaudit.measurement.run_groups import NO_GROUP, Series
from ckptaudit.measurement.scheduler import by_unit, measure
from ckptaudit.measurement.store import MeasurementStore
from ckptaudit.metrics import GROUP_METRICS, PAIR_FACTS, REGISTRY, Measurement, Over, nearest
from ckptaudit.metrics.groups import measure_group
from ckptaudit.pairing.auxiliary import Inputs, open_inputs
from ckptaudit.pairing.runs import Run, open_all
from ckptaudit.pipeline.curves import MOST, spectrum_row, worst_matrices
from ckptaudit.results.baseline import Released
from ckptaudit.results.records import (
    About,
    AuditResult,
    CheckpointRow,
    CheckRow,
    SpectrumRow,
    Summary,
    check_row,
    checkpoint_row,
    measurement_row,
    verdict_row,
)
from ckptaudit.results.trajectories import notes_of, siblings_row, trajectory_row

PACKAGES = ("ckptaudit", "torch", "safetensors", "numpy", "pytest")


class AuditSession:
    """Opens and pairs everything at once, so that a request that cannot be judged fails early.

    Raises CkptAuditError in one sentence.
    """

    def __init__(
        self,
        base: str,
        tuned: Sequence[str],
        *,
        device: str = "auto",
        exact: bool = False,
        store: MeasurementStore | None = None,
        cache: FactorCache | None = None,
        memory: int = BATCH_BYTES,
        command: Sequence[str] = (),
        profile: str = "",
        inputs: Mapping[str, str] | None = None,
        several: Several = "auto",
    ) -> None:
        self.base = base
        self.started = datetime.now(UTC)
        self.command, self.profile = tuple(command), profile
        self.opened_base = open_checkpoint(base)
        given = inputs or {}
        initial = open_checkpoint(given["adapter_init"]) if "adapter_init" in given else None
        self.runs, groups = open_all(self.opened_base, tuned, several, initial)
        self.inputs: Inputs = open_inputs(given, self.opened_base)
        self.device = pick_device(device)
        self.exact = exact
        self.cache = cache
        self.store = store or MeasurementStore()
        self.series = Series(groups, self.store, self.device)
        self.released: Released | None = None
        self.terms = Terms(Config(), (), {})
        self._route = Route(self.device, memory, cache=cache)
        self._requests: tuple[Request, ...] | None = None
        self._everything = True
        self._checks: dict[str, CheckRow] = {}
        self._named: set[str] = set()
        self._extra: dict[tuple[str, str, str], tuple[Measurement, ...]] = {}

    def requests(self, file: CheckFile) -> Iterator[Request]:
        """Every verdict that a check file asks for. A check that selects nothing still asks for one."""
        self.admit(file)
        for written in file.checks:
            check = self.terms.effective(written)
            for run in self._judged(check):
                limits = self.terms.limits(written, run.path, file.home(written))
                granted = self.terms.granted(written, run.path)
                for subject in subjects(check, run.pair):
                    allowed = self.released.allowed(check, subject) if self.released else None
                    yield Request(check, run, subject, limits, granted, allowed)

    @property
    def compares(self) -> frozenset[Over]:
        """What the runs are to each other."""
        return frozenset(group.over for group in self.series.groups)

    def _judged(self, check: Check) -> Sequence[Run]:
        return self.runs if check.over is None else self.series.judged(check.metric) or self.runs[:1]

    def admit(self, file: CheckFile) -> None:
        """Remember what the file's checks say, for the result."""
        checks = map(self.terms.effective, file.checks)
        self._checks |= {check.id: check_row(check, file.path.name) for check in checks}
        self._named |= {name for check in file.checks for name in check.metrics}

    def agree(
        self,
        config: Config,
        files: Sequence[CheckFile],
        *,
        known: Sequence[CheckFile] = (),
        strict: bool = False,
        forgiving: bool = True,
    ) -> None:
        """Take over a configuration for the checks of these files; `known` are further ones it may speak of.

        Raises ConfigError if it speaks of checks, subjects or tensors that are not there.
        """
        pairs = {run.path: run.pair for run in self.runs}
        self.terms = Terms(config, files, pairs, known=known, strict=strict, forgiving=forgiving)

    def expect(self, requests: Sequence[Request], *, everything: bool = False) -> None:
        """Say which verdicts will be asked for, so that bounds may stand in for numbers that none of them needs.

        Only what they rest on is measured, or with `everything` every metric of every matrix. Without this call
        every number is computed.
        """
        self._requests, self._everything = tuple(requests), everything
        # A curve over the steps is drawn through numbers, not through bounds.
        exact = self.exact or (everything and "steps" in self.compares)
        self._route = replace(self._route, settled={} if exact else settled_by_bounds(requests))

    def units(self, requests: Sequence[Request]) -> list[tuple[Run, str]]:
        """The units of work that these verdicts rest on, in order, each once."""
        wanted = dict.fromkeys((r.run.path, s) for r in requests for s in rests_on(r))
        runs = {run.path: run for run in self.runs}
        return [(runs[path], subject) for path, subject in wanted]

    def measured(self, run: Run, subject: str) -> tuple[Measurement, ...]:
        """The measurements of one subject, taken now if they have not been yet."""
        return self.store.take(run.path, subject, lambda: measure(self._jobs(run, subject), self._route))

    def measure_together(self, units: Sequence[tuple[Run, str]]) -> Iterator[tuple[int, int]]:
        """Take the measurements of many units in one go; tells how many tensors of how many are done.

        A unit of which something cannot be measured is left out: who asks for it later gets to know why.
        """
        jobs = [job for run, subject in units for job in self._jobs(run, subject)]
        done = 0
        for count, finished in by_unit(jobs, self._route):
            for unit, rows in finished:
                self.store.take(*unit, partial(list, rows))
            done += count
            yield done, len(jobs)

    def verdict(self, request: Request) -> Verdict:
        """Measure what is missing, decide, and forgive what a waiver forgives."""
        verdict = self._decided(request)
        if verdict.outcome != "failed" or not request.granted:
            return verdict
        return forgive(
            verdict, request.granted, self._broken(request), lambda spared: self._decided(request, spared)
        )

    def _decided(self, request: Request, spared: frozenset[str] = frozenset()) -> Verdict:
        """The verdict without the tensors that are spared, beside the released run's if there is one."""
        verdict = self._judged_alone(request, spared)
        return self.released.compare(verdict, request.check) if self.released else verdict

    def _judged_alone(self, request: Request, spared: frozenset[str]) -> Verdict:
        check, run = request.check, request.run
        if check.about_pair:
            findings = [f for f in PAIR_FACTS[check.metric].findings(run.pair) if finding_about(f) not in spared]
            return judge_pair(check, request.subject, run.path, findings, request.limits)
        if check.about_group:
            return self._of_group(request)
        rows = self.rows(request)
        if check.over is not None and not rows:
            return self._without_rows(request, check.over)
        return judge(check, request.subject, run.path, [m for m in rows if m.tensor not in spared], request.limits)

    def _without_rows(self, request: Request, over: Over) -> Verdict:
        check, run = request.check, request.run
        if run not in self.series.judged(check.metric):
            return undecidable(check, request.subject, run.path, NO_GROUP[over], request.limits)
        reason = "no weight here has moved in a way that can be compared"
        return skipped(check, request.subject, run.path, reason, request.limits)

    def _broken(self, request: Request) -> frozenset[str]:
        check = request.check
        if check.about_pair:
            return frozenset(map(finding_about, PAIR_FACTS[check.metric].findings(request.run.pair)))
        if check.about_group:
            return frozenset()
        return broken_tensors(check, self.rows(request), request.limits or Limits.own(check))

    def rows(self, request: Request) -> list[Measurement]:
        """Every measurement that a verdict rests on, and other metrics of the same tensors."""
        check, run = request.check, request.run
        names = {name for tensor in selected(check, run.pair, request.subject) for name in tensor.matrix_names()}
        if check.per == "matrix":
            names &= {request.subject}
        if check.over is not None:
            found = (m for s in owners(request) for m in self.series.rows(check.over, run, s))
            return [m for m in found if m.tensor in names and m.metric == check.metric]
        return [m for s in rests_on(request) for m in self.measured(run, s) if m.tensor in names]

    def _of_group(self, request: Request) -> Verdict:
        check, run, subject = request.check, request.run, request.subject
        metric, tensors = GROUP_METRICS[check.metric], selected(check, run.pair, subject)
        limits = request.limits or Limits.own(check)
        if check.per == "matrix":
            tensors = tuple(t for t in tensors if subject in t.matrix_names())
        if not tensors:
            return judge(check, subject, run.path, (), limits)
        if reason := self.inputs.lacking(metric.inputs, tensors):
            return skipped(check, subject, run.path, reason, limits)
        key = f"{check.metric} of {subject}: {', '.join(check.roles)}"
        (measured,) = self.store.take(
            run.path,
            key,
            lambda: [measure_group(metric, subject, check.roles, run.pair, tensors, self.inputs, self.device)],
        )
        # Terms admit no override that names some of the weights only: any of them has the limit of all.
        return judge_group(check, subject, run.path, measured, limits.of(tensors[0].matrix_names()[0]))

    def measure(self, metric: str, run: Run, subject: str, roles: Sequence[str]) -> dict[str, float]:
        """A metric of a subject's tensors, exactly, by tensor name; NaN where it cannot be computed.

        Raises CheckDefinitionError for an unknown metric.
        """
        if metric not in REGISTRY:
            raise CheckDefinitionError(f"unknown metric {metric!r}; {nearest(metric, sorted(REGISTRY))}")
        key = (run.path, subject, metric)
        if key not in self._extra:
            tensors = [t for t in run.pair.subjects[subject] if applies(metric, t)]
            jobs = [Job(t, frozenset({metric})) for t in tensors]
            self._extra[key] = tuple(measure(jobs, replace(self._route, settled={})))
        chosen = run.pair.select(roles).get(subject, ())
        names = {name for tensor in chosen for name in tensor.matrix_names()}
        return {
            m.tensor: float("nan") if m.value is None else m.value for m in self._extra[key] if m.tensor in names
        }

    def spectra(self, verdicts: Sequence[Verdict]) -> tuple[SpectrumRow, ...]:
        """The worst matrices in full, for the page: decompositions that no verdict needs.

        A file that has gone since is no reason to lose the page: its matrix is left out.
        """
        most = max(1, MOST // len(self.runs))
        rows = (
            spectrum_row(run.path, matrix, self.device)
            for run in self.runs
            for matrix in worst_matrices((v for v in verdicts if v.tuned == run.path), run.pair, most=most)
        )
        return tuple(row for row in rows if row is not None)

    def result(self, verdicts: Sequence[Verdict], spectra: Sequence[SpectrumRow] = ()) -> AuditResult:
        """All that was found, for the reports."""
        entries = sorted(self.store.entries(), key=lambda e: (e.tuned, e.subject))
        measurements = tuple(measurement_row(e.tuned, m) for e in entries for m in e.measurements)
        rows = tuple(verdict_row(v) for v in verdicts)
        steps = [g for g in self.series.groups if g.over == "steps"]
        siblings = [g for g in self.series.groups if g.over == "siblings"]
        trajectories = tuple(trajectory_row(group, measurements, rows) for group in steps)
        return AuditResult(
            base=self.base,
            tuned=tuple(run.path for run in self.runs),
            summary=Summary.of(verdicts),
            unaligned=tuple(dict.fromkeys(str(u) for run in self.runs for u in run.pair.unaligned)),
            measurements=measurements,
            verdicts=rows,
            notes=(
                *dict.fromkeys((*(n for run in self.runs for n in run.pair.notes), *self.inputs.notes)),
                *notes_of(trajectories),
                *(self.released.remarks(rows) if self.released else ()),
                *self.terms.remarks(verdicts),
            ),
            trajectories=trajectories,
            siblings=tuple(siblings_row(group, measurements, rows) for group in siblings),
            against=self.released.row if self.released else None,
            checkpoints=self.checkpoints,
            checks=tuple(self._checks[name] for name in dict.fromkeys(v.check for v in verdicts)),
            about=self.about(),
            spectra=tuple(spectra),
        )

    @cached_property
    def checkpoints(self) -> tuple[CheckpointRow, ...]:
        """Base, then each run: header facts and fingerprints."""
        base = checkpoint_row("base", self.runs[0].pair.base)
        return (base, *(checkpoint_row("tuned", run.pair.tuned) for run in self.runs))

    def about(self) -> About:
        """How the audit is made, as of now."""
        return About(
            command=self.command,
            profile=self.profile,
            device=str(self.device),
            exact=self.exact,
            started=self.started.isoformat(timespec="seconds"),
            seconds=round((datetime.now(UTC) - self.started).total_seconds(), 3),
            inputs=self.inputs.paths,
            versions={"python": python_version(), **{name: version(name) for name in PACKAGES}},
        )

    def _jobs(self, run: Run, subject: str) -> list[Job]:
        tensors = run.pair.subjects[subject]
        if self._requests is None or self._everything:
            wanted_of_all = frozenset(n for n, metric in REGISTRY.items() if metric.standing or n in self._named)
            return [Job(t, wanted_of_all, (run.path, subject)) for t in tensors]
        wanted: dict[str, set[str]] = {}
        for request in self._requests:
            if request.run is run and subject in rests_on(request):
                for tensor in selected(request.check, run.pair, subject):
                    wanted.setdefault(tensor.name, {"nonfinite_entries"}).update(request.check.metrics)
        return [Job(t, frozenset(wanted[t.name]), (run.path, subject)) for t in tensors if t.name in wanted]
