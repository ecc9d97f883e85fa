"""One audit: a base, its tuned runs, the checks asked for, and what has been measured so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from platform import python_version

from ckptaudit.against import Released, load_released
from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.checks import Check, CheckFile, load_checks
from ckptaudit.engine import Job, Route, applies, measure, pick_device
from ckptaudit.errors import CheckDefinitionError
from ckptaudit.metrics import REGISTRY, Measurement, Over, nearest
from ckptaudit.pairing import AlignedTensor, ModelPair
from ckptaudit.policy import DEFAULT_PROFILE, FACTOR, Several, companions, profile_file
from ckptaudit.result import (
    About,
    AuditResult,
    CheckpointRow,
    CheckRow,
    Summary,
    check_row,
    checkpoint_row,
    measurement_row,
    verdict_row,
)
from ckptaudit.runs import Run, open_all
from ckptaudit.series import NO_GROUP, Series
from ckptaudit.store import MeasurementStore
from ckptaudit.trajectory import notes_of, siblings_row, trajectory_row
from ckptaudit.verdict import Verdict, judge, judge_pair, skipped, undecidable

MODEL = "model"
PACKAGES = ("ckptaudit", "torch", "safetensors", "numpy", "pytest")


@dataclass(frozen=True)
class Request:
    """One verdict to be given: a check about a subject of a run."""

    check: Check
    run: Run
    subject: str

    @property
    def id(self) -> str:
        """The bracketed part of an item's id; the run stands in it where there are several."""
        return f"{self.run.label}:{self.subject}" if self.run.label else self.subject


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
        command: Sequence[str] = (),
        profile: str = "",
        several: Several = "auto",
    ) -> None:
        self.base = base
        self.started = datetime.now(UTC)
        self.command, self.profile = tuple(command), profile
        self.opened_base = open_checkpoint(base)
        self.runs, groups = open_all(self.opened_base, tuned, several)
        self.device = pick_device(device)
        self.exact = exact
        self.store = store or MeasurementStore()
        self.series = Series(groups, self.store, self.device)
        self.released: Released | None = None
        self._requests: tuple[Request, ...] | None = None
        self._checks: dict[str, CheckRow] = {}
        self._extra: dict[tuple[str, str, str], tuple[Measurement, ...]] = {}

    def requests(self, file: CheckFile) -> Iterator[Request]:
        """Every verdict that a check file asks for. A check that selects nothing still asks for one."""
        self.admit(file)
        for check in file.checks:
            for run in self._judged(check):
                for subject in _subjects(check, run.pair):
                    yield Request(check, run, subject)

    @property
    def compares(self) -> frozenset[Over]:
        """What the runs are to each other."""
        return frozenset(group.over for group in self.series.groups)

    def _judged(self, check: Check) -> Sequence[Run]:
        return self.runs if check.over is None else self.series.judged(check.metric) or self.runs[:1]

    def admit(self, file: CheckFile) -> None:
        """Remember what the file's checks say, for the result."""
        self._checks |= {check.id: check_row(check, file.path.name) for check in file.checks}

    def expect(self, requests: Sequence[Request]) -> None:
        """Narrow the work to these verdicts; without this call every metric of every matrix is measured."""
        self._requests = tuple(requests)

    def units(self, requests: Sequence[Request]) -> list[tuple[Run, str]]:
        """The units of work that these verdicts rest on, in order, each once."""
        wanted = dict.fromkeys((r.run.path, s) for r in requests for s in _rests_on(r))
        runs = {run.path: run for run in self.runs}
        return [(runs[path], subject) for path, subject in wanted]

    def measured(self, run: Run, subject: str) -> tuple[Measurement, ...]:
        """The measurements of one subject, taken now if they have not been yet."""
        return self.store.take(run.path, subject, lambda: measure(self._jobs(run, subject), self._route()))

    def verdict(self, request: Request) -> Verdict:
        """Measure what is missing and decide."""
        verdict = self._decided(request)
        return self.released.compare(verdict, request.check) if self.released else verdict

    def _decided(self, request: Request) -> Verdict:
        check, run = request.check, request.run
        if check.about_pair:
            return judge_pair(check, request.subject, run.path, run.pair)
        rows = self._rows(request)
        if check.over is not None and not rows:
            if run not in self.series.judged(check.metric):
                return undecidable(check, request.subject, run.path, NO_GROUP[check.over])
            return skipped(check, request.subject, run.path, "no weight here has moved in a way that can be compared")
        return judge(check, request.subject, run.path, rows)

    def _rows(self, request: Request) -> list[Measurement]:
        """Every measurement that a verdict rests on, and other metrics of the same tensors."""
        check, run = request.check, request.run
        names = {name for tensor in _selected(check, run.pair, request.subject) for name in tensor.matrix_names()}
        if check.per == "matrix":
            names &= {request.subject}
        if check.over is not None:
            found = (m for s in _owners(request) for m in self.series.rows(check.over, run, s))
            return [m for m in found if m.tensor in names and m.metric == check.metric]
        return [m for s in _rests_on(request) for m in self.measured(run, s) if m.tensor in names]

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
            self._extra[key] = tuple(measure(jobs, Route(self.device)))
        chosen = run.pair.select(roles).get(subject, ())
        names = {name for tensor in chosen for name in tensor.matrix_names()}
        return {
            m.tensor: float("nan") if m.value is None else m.value for m in self._extra[key] if m.tensor in names
        }

    def result(self, verdicts: Sequence[Verdict]) -> AuditResult:
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
                *dict.fromkeys(note for run in self.runs for note in run.pair.notes),
                *notes_of(trajectories),
                *(self.released.remarks(rows) if self.released else ()),
            ),
            trajectories=trajectories,
            siblings=tuple(siblings_row(group, measurements, rows) for group in siblings),
            against=self.released.row if self.released else None,
            checkpoints=self._checkpoints,
            checks=tuple(self._checks[name] for name in dict.fromkeys(v.check for v in verdicts)),
            about=self._about(),
        )

    @cached_property
    def _checkpoints(self) -> tuple[CheckpointRow, ...]:
        base = checkpoint_row("base", self.runs[0].pair.base)
        return (base, *(checkpoint_row("tuned", run.pair.tuned) for run in self.runs))

    def _about(self) -> About:
        return About(
            command=self.command,
            profile=self.profile,
            device=str(self.device),
            exact=self.exact,
            started=self.started.isoformat(timespec="seconds"),
            seconds=round((datetime.now(UTC) - self.started).total_seconds(), 3),
            versions={"python": python_version(), **{name: version(name) for name in PACKAGES}},
        )

    def _jobs(self, run: Run, subject: str) -> list[Job]:
        tensors = run.pair.subjects[subject]
        if self._requests is None:
            return [Job(t, frozenset(REGISTRY)) for t in tensors]
        wanted: dict[str, set[str]] = {}
        for request in self._requests:
            if request.run is run and subject in _rests_on(request) and not request.check.about_pair:
                for tensor in _selected(request.check, run.pair, subject):
                    wanted.setdefault(tensor.name, {"nonfinite_entries"}).update(request.check.metrics)
        return [Job(t, frozenset(wanted[t.name])) for t in tensors if t.name in wanted]

    def _route(self) -> Route:
        return Route(self.device, settled={} if self.exact else self._settled())

    def _settled(self) -> dict[str, float]:
        """The limit under which an upper bound decides every check that asks for the metric."""
        limits: dict[str, float] = {}
        asking = sorted(self._requests or (), key=lambda r: r.check.metric)
        for metric, requests in groupby(asking, key=lambda r: r.check.metric):
            asked = list(requests)
            checks = {r.check for r in asked}
            if all(c.at_most is not None and c.judge_by != "sum" for c in checks):
                limits[metric] = min(self._settling(r) for r in asked)
        return limits

    def _settling(self, request: Request) -> float:
        """What a bound has to keep within: the limit, and what the released run allows."""
        allowed = self.released.allowed(request.check, request.subject) if self.released else None
        return request.check.limit if allowed is None else min(request.check.limit, allowed)


def audit(
    base: str | Path,
    tuned: str | Path | Sequence[str | Path],
    *,
    profile: str = DEFAULT_PROFILE,
    device: str = "auto",
    exact: bool = False,
    several: Several = "auto",
    against: str | Path | None = None,
    against_factor: float = FACTOR,
) -> AuditResult:
    """Audit tuned checkpoints against their base, without pytest. Raises CkptAuditError.

    `tuned` may hold patterns and `FOLDER@all`; `several` says what the runs are to each other, as
    `--audit-several` does. `against` is the JSON of a released run's audit, than which a verdict may not
    be worse by more than `against_factor`.
    """
    paths = [tuned] if isinstance(tuned, str | Path) else list(tuned)
    session = AuditSession(
        str(base), [str(p) for p in paths], device=device, exact=exact, profile=profile, several=several
    )
    if against is not None:
        session.released = load_released(Path(against), session.opened_base, factor=against_factor)
    files = [load_checks(path) for path in (profile_file(profile), *companions(profile, session.compares))]
    return session.result([session.verdict(request) for file in files for request in session.requests(file)])


def _selected(check: Check, pair: ModelPair, subject: str) -> tuple[AlignedTensor, ...]:
    """The tensors of a subject (of all, for the model) that the check is about and its metric applies to."""
    chosen = pair.select(check.roles)
    subjects = chosen if subject not in pair.subjects else {subject: chosen.get(subject, ())}
    return tuple(t for tensors in subjects.values() for t in tensors if applies(check.metric, t))


def _subjects(check: Check, pair: ModelPair) -> list[str]:
    if check.per == "model" or check.about_pair:
        return [MODEL]
    chosen = {
        subject: tensors for subject in pair.select(check.roles) if (tensors := _selected(check, pair, subject))
    }
    if check.per == "layer":
        return list(chosen) or [MODEL]
    return [name for tensors in chosen.values() for t in tensors for name in t.matrix_names()] or [MODEL]


def _rests_on(request: Request) -> list[str]:
    """The subjects whose measurements a verdict needs; what compares runs is measured apart from them."""
    return [] if request.check.about_pair or request.check.over else _owners(request)


def _owners(request: Request) -> list[str]:
    subjects = request.run.pair.subjects
    if request.subject in subjects:
        return [request.subject]
    owner = {name: s for s, tensors in subjects.items() for t in tensors for name in t.matrix_names()}
    if request.check.per == "matrix" and request.subject in owner:
        return [owner[request.subject]]
    return list(subjects)
