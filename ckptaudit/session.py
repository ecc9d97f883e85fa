"""One audit: a base, its tuned runs, the checks asked for, and what has been measured so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from platform import python_version

from ckptaudit.checkpoints import Checkpoint, merge_adapter, open_checkpoint
from ckptaudit.checks import Check, CheckFile, load_checks
from ckptaudit.engine import Job, Route, applies, measure, pick_device
from ckptaudit.errors import CheckDefinitionError
from ckptaudit.inputs import Inputs, open_inputs
from ckptaudit.metrics import GROUP_METRICS, REGISTRY, Measurement, nearest
from ckptaudit.metrics.groups import counts, measure_group
from ckptaudit.pairing import AlignedTensor, ModelPair, pair_checkpoints
from ckptaudit.policy import DEFAULT_PROFILE, profile_file
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
from ckptaudit.store import MeasurementStore
from ckptaudit.verdict import Verdict, judge, judge_group, judge_pair, left_out

MODEL = "model"
PACKAGES = ("ckptaudit", "torch", "safetensors", "numpy", "pytest")


@dataclass(frozen=True)
class Run:
    """One tuned checkpoint against the base; `label` tells runs apart in ids."""

    label: str
    path: str
    pair: ModelPair


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
        inputs: Mapping[str, str] | None = None,
    ) -> None:
        self.base = base
        self.started = datetime.now(UTC)
        self.command, self.profile = tuple(command), profile
        opened = open_checkpoint(base)
        given = inputs or {}
        initial = open_checkpoint(given["adapter_init"]) if "adapter_init" in given else None
        self.runs = tuple(
            _run(label, opened, open_checkpoint(path), initial)
            for label, path in zip(_labels(tuned), tuned, strict=True)
        )
        self.inputs: Inputs = open_inputs(given, opened)
        self.device = pick_device(device)
        self.exact = exact
        self.store = store or MeasurementStore()
        self._requests: tuple[Request, ...] | None = None
        self._checks: dict[str, CheckRow] = {}
        self._named: set[str] = set()
        self._extra: dict[tuple[str, str, str], tuple[Measurement, ...]] = {}

    def requests(self, file: CheckFile) -> Iterator[Request]:
        """Every verdict that a check file asks for. A check that selects nothing still asks for one."""
        self.admit(file)
        for check in file.checks:
            for run in self.runs:
                for subject in _subjects(check, run.pair):
                    yield Request(check, run, subject)

    def admit(self, file: CheckFile) -> None:
        """Remember what the file's checks say, for the result."""
        self._checks |= {check.id: check_row(check, file.path.name) for check in file.checks}
        self._named |= {name for check in file.checks for name in check.metrics}

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
        check, run = request.check, request.run
        if check.about_pair:
            return judge_pair(check, request.subject, run.path, run.pair)
        if check.about_group:
            return self._of_group(request)
        names = {name for tensor in _selected(check, run.pair, request.subject) for name in tensor.matrix_names()}
        if check.per == "matrix":
            names &= {request.subject}
        rows = [m for s in _rests_on(request) for m in self.measured(run, s) if m.tensor in names]
        return judge(check, request.subject, run.path, rows)

    def _of_group(self, request: Request) -> Verdict:
        check, run, subject = request.check, request.run, request.subject
        metric, tensors = GROUP_METRICS[check.metric], _selected(check, run.pair, subject)
        if check.per == "matrix":
            tensors = tuple(t for t in tensors if subject in t.matrix_names())
        if not tensors:
            return judge(check, subject, run.path, ())
        if reason := self.inputs.lacking(metric.inputs, tensors):
            return left_out(check, subject, run.path, reason)
        key = f"{check.metric} of {subject}: {', '.join(check.roles)}"
        (measured,) = self.store.take(
            run.path,
            key,
            lambda: [measure_group(metric, subject, check.roles, run.pair, tensors, self.inputs, self.device)],
        )
        return judge_group(check, subject, run.path, measured)

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
        return AuditResult(
            base=self.base,
            tuned=tuple(run.path for run in self.runs),
            summary=Summary.of(verdicts),
            unaligned=tuple(dict.fromkeys(str(u) for run in self.runs for u in run.pair.unaligned)),
            measurements=tuple(measurement_row(e.tuned, m) for e in entries for m in e.measurements),
            verdicts=tuple(verdict_row(v) for v in verdicts),
            notes=tuple(dict.fromkeys((*(n for run in self.runs for n in run.pair.notes), *self.inputs.notes))),
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
            inputs=self.inputs.paths,
            versions={"python": python_version(), **{name: version(name) for name in PACKAGES}},
        )

    def _jobs(self, run: Run, subject: str) -> list[Job]:
        tensors = run.pair.subjects[subject]
        if self._requests is None:
            wanted_of_all = frozenset(n for n, metric in REGISTRY.items() if metric.standing or n in self._named)
            return [Job(t, wanted_of_all) for t in tensors]
        wanted: dict[str, set[str]] = {}
        for request in self._requests:
            if request.run is run and subject in _rests_on(request):
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
            checks = {r.check for r in requests}
            if all(c.at_most is not None and c.judge_by != "sum" for c in checks):
                limits[metric] = min(c.limit for c in checks)
        return limits


def audit(
    base: str | Path,
    tuned: str | Path | Sequence[str | Path],
    *,
    profile: str = DEFAULT_PROFILE,
    device: str = "auto",
    exact: bool = False,
    inputs: Mapping[str, str | Path] | None = None,
) -> AuditResult:
    """Audit tuned checkpoints against their base, without pytest. Raises CkptAuditError.

    `inputs` gives by name what some claims need beside the pair: `{"fisher": "fisher.safetensors"}`.
    """
    paths = [tuned] if isinstance(tuned, str | Path) else list(tuned)
    file = load_checks(profile_file(profile))
    given = {name: str(path) for name, path in (inputs or {}).items()}
    session = AuditSession(
        str(base), [str(p) for p in paths], device=device, exact=exact, profile=profile, inputs=given
    )
    return session.result([session.verdict(request) for request in session.requests(file)])


def _run(label: str, base: Checkpoint, tuned: Checkpoint, initial: Checkpoint | None) -> Run:
    # The checkpoint knows what `@latest` or a hub id came to; reports should name that.
    return Run(label, tuned.path, pair_checkpoints(base, merge_adapter(base, tuned, initial)))


def _labels(tuned: Sequence[str]) -> list[str]:
    if len(tuned) == 1:
        return [""]
    names = [Path(path).name for path in tuned]
    return names if len(set(names)) == len(names) else [path.strip("/") for path in tuned]


def _selected(check: Check, pair: ModelPair, subject: str) -> tuple[AlignedTensor, ...]:
    """The tensors of a subject (of all, for the model) that the check is about and its metric applies to."""
    chosen = pair.select(check.roles)
    subjects = chosen if subject not in pair.subjects else {subject: chosen.get(subject, ())}
    return tuple(t for tensors in subjects.values() for t in tensors if _applies(check, t))


def _applies(check: Check, tensor: AlignedTensor) -> bool:
    return counts(tensor) if check.about_group else applies(check.metric, tensor)


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
    """The subjects whose measurements a verdict needs."""
    if request.check.about_pair or request.check.about_group:
        return []
    subjects = request.run.pair.subjects
    if request.subject in subjects:
        return [request.subject]
    owner = {name: s for s, tensors in subjects.items() for t in tensors for name in t.matrix_names()}
    if request.check.per == "matrix" and request.subject in owner:
        return [owner[request.subject]]
    return list(subjects)
