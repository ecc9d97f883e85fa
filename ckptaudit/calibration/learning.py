"""Limits learned from trusted runs: what all of them meet with a margin, and how far so few vouch for the next."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ckptaudit.calibration.tolerance import upper_tolerance
from ckptaudit.errors import CalibrationError, parameter, printable
from ckptaudit.judging.checks import Check
from ckptaudit.judging.judge import Measured, admitted, judge, rows_of
from ckptaudit.judging.plan import AuditPlan, PlannedVerdict
from ckptaudit.judging.verdict import Verdict
from ckptaudit.metrics import Measurement
from ckptaudit.metrics.scales import Badness, badness, is_count
from ckptaudit.pairing.runs import Run, RunGroup

LOOSE = 3.0
"""A layer gets a limit of its own where its role's would leave it this many times the room it needs."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How much room to leave, and how sure to be of what share of further runs."""

    margin: float = 1.5
    coverage: float = 0.9
    confidence: float = 0.95
    force: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """A value that a trusted run had, and where."""

    run: str
    where: str
    value: float


@dataclass(frozen=True, slots=True)
class Learned:
    """A limit for a check's tensors of one role and layer; of all roles, of all layers where those are None.

    `deciding` is the worst value of each run, worst first; `basis` says in words how the limit comes of them.
    """

    check: Check
    role: str | None
    layer: int | None
    limit: float
    deciding: tuple[Seen, ...]
    basis: str


@dataclass(frozen=True, slots=True)
class Kept:
    """A check that keeps its own limits, and why."""

    check: Check
    reason: str


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose values belong together."""

    role: str | None
    layer: int | None = None


Values = dict[Scope, dict[str, Seen]]
"""By scope and trusted run, the run's worst value."""


def calibrate(plan: AuditPlan, measurements: Measured, settings: Settings) -> list[Learned | Kept]:
    """Limits for every check of the plan, those of a role before those of its layers.

    The checkpoints of one training run count as one run: they vouch for nothing but themselves.
    Raises CalibrationError, all reasons at once, where a trusted run cannot be judged, fails what no limit
    moves, or lies past a published separation and `force` is not set.
    """
    owners = _owners(plan.runs, plan.groups)
    by_check: dict[Check, list[tuple[PlannedVerdict, Verdict]]] = {}
    for planned, verdict in zip(plan.verdicts, judge(plan, measurements), strict=True):
        by_check.setdefault(planned.check, []).append((planned, verdict))
    found: list[Learned | Kept] = []
    problems: list[str] = []
    for check, given in by_check.items():
        faults = list(_faults(check, [verdict for _, verdict in given]))
        problems += faults
        if not faults:
            found += _learned(check, _values(measurements, given, owners), settings, problems)
    if problems:
        raise CalibrationError(f"{'; '.join(problems)}.")
    return found


def _owners(runs: Sequence[Run], groups: Sequence[RunGroup]) -> dict[str, str]:
    """The training run that each checkpoint is of, by paths."""
    owners = {run.path: run.label or run.path for run in runs}
    for group in groups:
        if group.over == "steps":
            owners |= {run.path: group.order.name for run in group.runs}
    return owners


def _faults(check: Check, verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Why a trusted run is not to be learned from."""
    for v in verdicts:
        where = f"{printable(v.tuned)}: {check.id}[{printable(v.subject)}]"
        if v.outcome == "error":
            yield f"{where} cannot be judged: {printable(v.reason)}"
        elif v.outcome == "failed" and check.severity == "gate" and is_count(check.metric):
            yield f"{where} fails, and no limit on a count is learned: leave this run out"


def _values(
    measurements: Measured, given: Sequence[tuple[PlannedVerdict, Verdict]], owners: Mapping[str, str]
) -> Values:
    found: Values = {}
    for planned, verdict in given:
        if verdict.value is None:
            continue
        owner, scale = owners[planned.run.path], _scale(planned.check)
        for scope, where, value in _judged(measurements, planned, verdict.value):
            runs = found.setdefault(scope, {})
            if owner not in runs or scale.of(value) > scale.of(runs[owner].value):
                runs[owner] = Seen(owner, where, value)
    return found


def _judged(measurements: Measured, planned: PlannedVerdict, value: float) -> Iterator[tuple[Scope, str, float]]:
    """The values a verdict holds against its limit: each tensor's, or the one they come to together."""
    check = planned.check
    if check.judge_by != "worst" or check.scope not in ("matrix", "runs"):
        yield Scope(None), f"{planned.run.path}, {planned.subject}", value
        return
    for m in _held(check, rows_of(planned, measurements)):
        assert m.value is not None  # the verdict would not have one either
        yield Scope(m.role), m.tensor, m.value
        if m.layer is not None:
            yield Scope(m.role, m.layer), m.tensor, m.value


def _held(check: Check, rows: Sequence[Measurement]) -> list[Measurement]:
    kept, _ = admitted(check, [m for m in rows if m.metric == check.metric], rows)
    return kept


def _learned(check: Check, values: Values, settings: Settings, problems: list[str]) -> Iterable[Learned | Kept]:
    if is_count(check.metric):
        return [Kept(check, "no limit on a count is learned")]
    if not values:
        return [Kept(check, "nothing here to judge by")]
    found: list[Learned | Kept] = []
    for scope in sorted((s for s in values if s.layer is None), key=lambda s: s.role or ""):
        try:
            whole = _limit(check, scope, values[scope], settings)
            found += [whole, *_layers(check, scope, values, whole, settings)]
        except CalibrationError as error:
            problems.append(error.sentence)
    return found


def _layers(
    check: Check, scope: Scope, values: Values, whole: Learned | Kept, settings: Settings
) -> list[Learned | Kept]:
    """Limits of the layers for which the role's is too wide."""
    scale = _scale(check)
    room = scale.of(whole.limit if isinstance(whole, Learned) else check.limit)
    own = (
        _limit(check, s, values[s], settings)
        for s in sorted((s for s in values if s.role == scope.role and s.layer is not None), key=_layer)
    )
    return [limit for limit in own if isinstance(limit, Learned) and LOOSE * scale.of(limit.limit) < room]


def _layer(scope: Scope) -> int:
    return -1 if scope.layer is None else scope.layer


def _limit(check: Check, scope: Scope, seen: Mapping[str, Seen], settings: Settings) -> Learned | Kept:
    """The limit for values that belong together, by the rules that docs/calibration.md gives."""
    scale = _scale(check)
    deciding = sorted(seen.values(), key=lambda s: -scale.of(s.value))
    bads = [scale.of(s.value) for s in deciding]
    beyond = math.inf if check.never_beyond is None else scale.of(check.never_beyond.value)
    if bads[0] > beyond:
        if not settings.force:
            raise CalibrationError(_past_separation(check, deciding[0]))
        forced = "FORCED past the published separation, with margin"
        return _made(check, scope, scale.value(bads[0] * settings.margin), deciding, forced)
    # The margin ends where another kind of training begins.
    needed = min(bads[0] * settings.margin, beyond)
    if not bads[0] > 0:
        return Kept(check, f"{_named(scope)}: every run is as good as can be")
    # What is not bad at all has no logarithm; the worst value with its margin has to do.
    logs = [math.log(b) for b in bads] if bads[-1] > 0 else []
    tolerated = upper_tolerance(logs, coverage=settings.coverage, confidence=settings.confidence) if logs else None
    wanted = needed if tolerated is None else max(needed, math.exp(min(tolerated, 600.0)))
    own = scale.of(check.limit)
    if needed <= own <= wanted:
        return Kept(check, f"{_named(scope)}: these runs vouch for no tighter limit than the check's own")
    how = "tolerance limit" if wanted > needed else f"worst value with margin {settings.margin:g}"
    if needed <= own:
        return _made(check, scope, scale.value(wanted), deciding, how)
    if wanted >= beyond:
        assert check.never_beyond is not None  # nothing is as large as an infinite separation
        how = f"published separation, where the {how} would pass it"
        return _made(check, scope, check.never_beyond.value, deciding, f"{how}; looser than the check's own")
    return _made(check, scope, scale.value(wanted), deciding, f"{how}; looser than the check's own")


def _made(check: Check, scope: Scope, limit: float, deciding: Sequence[Seen], basis: str) -> Learned:
    exact = check.never_beyond is not None and limit == check.never_beyond.value
    rounded = limit if exact else _rounded(limit, up=check.at_most is not None)
    return Learned(check, scope.role, scope.layer, rounded, tuple(deciding), basis)


def _past_separation(check: Check, worst: Seen) -> str:
    assert check.never_beyond is not None  # the caller has compared with it
    return (
        f"{check.id}: {printable(worst.run)} has {worst.value:.4g} at {printable(worst.where)}, past "
        f"{check.never_beyond.value:g} ({check.never_beyond.source}); leave the run out, or loosen the limit "
        f"all the same with {parameter('force')}"
    )


def _named(scope: Scope) -> str:
    return " ".join(filter(None, (scope.role, "" if scope.layer is None else f"of layer {scope.layer}"))) or "all"


def _rounded(value: float, *, up: bool) -> float:
    """Four digits, rounded to the side on which the runs still pass."""
    if value == 0 or not math.isfinite(value):
        return value
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 3)
    return float(f"{(math.ceil if up else math.floor)(value / unit) * unit:.4g}")


def _scale(check: Check) -> Badness:
    return badness(check.metric, at_most=check.at_most is not None, limit=check.limit)
