"""What the page shows of a log of rollouts: curves over the steps, distributions, and samples of broken checks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ckptaudit.errors import printable
from ckptaudit.judging.verdict import Verdict
from ckptaudit.metrics.descriptions import description_of
from ckptaudit.report.appearance import number, word
from ckptaudit.report.coverage_text import rollouts_lines
from ckptaudit.report.html.figures import Figure, bars, curve
from ckptaudit.report.samples import named
from ckptaudit.results.gate import gravity
from ckptaudit.results.records import AuditResult
from ckptaudit.results.rollouts import RolloutsRecord, StepCurve
from ckptaudit.rollouts.distributions import Bin, Distributions
from ckptaudit.rollouts.excerpts import SampleExcerpt
from ckptaudit.rollouts.readings import step_of


@dataclass(frozen=True, slots=True)
class LogView:
    """One log on the page; `checked` are the curves that a check limits, `others` the rest."""

    path: str
    words: tuple[str, ...]
    checked: tuple[Figure, ...]
    distributions: tuple[Figure, ...]
    others: tuple[Figure, ...]
    samples: tuple[tuple[str, tuple[Shown, ...]], ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """A sample: where it is, and its texts."""

    where: str
    sample: SampleExcerpt


def log_views(result: AuditResult) -> tuple[LogView, ...]:
    """Every log of the result."""
    return tuple(_view(result, log) for log in result.rollouts)


def _view(result: AuditResult, log: RolloutsRecord) -> LogView:
    per_step = {check.id for check in result.checks if check.per == "step"}
    own = sorted((v for v in result.verdicts if v.tuned == log.tuned and v.check in per_step), key=gravity)
    curves = {one.metric: one for one in log.curves}
    checked = [v for v in own if v.metric in curves and (v.outcome != "passed" or _moves(curves[v.metric]))]
    checked = [v for v in checked if any(x is not None for x in curves[v.metric].values)]
    rest = curves.keys() - {v.metric for v in checked}
    return LogView(
        path=printable(log.path),
        words=tuple(map(printable, rollouts_lines(log))),
        checked=tuple(_figure(log, curves[v.metric], v) for v in checked),
        distributions=tuple(_distributions(log.distributions)) if log.distributions else (),
        others=tuple(_figure(log, curves[m]) for m in sorted(rest) if any(x is not None for x in curves[m].values)),
        samples=tuple(
            (v.check, tuple(Shown(named(sample), sample) for sample in v.samples))
            for v in sorted(result.verdicts, key=gravity)
            if v.tuned == log.tuned and v.samples
        ),
    )


def _moves(one: StepCurve) -> bool:
    """Whether there is anything to see: a value that is the same at every step is told by its check."""
    return len({value for value in one.values if value is not None}) > 1


def _figure(log: RolloutsRecord, one: StepCurve, verdict: Verdict | None = None) -> Figure:
    known = [(float(s), v) for s, v in zip(log.step_numbers, one.values, strict=True) if v is not None]
    points = [(step, value) for step, value in known if math.isfinite(value)] or [(0.0, 0.0)]
    ends = zip(log.step_numbers, one.low, one.high, strict=True) if one.low else ()
    band = [(float(s), low, high) for s, low, high in ends if low is not None and high is not None]
    first = _first(points, verdict)
    limit = verdict.effective_limit if verdict else None
    svg = curve(points, band=band, limit=limit, first=first)
    return Figure(_title(one.metric, verdict), _words(points, verdict, len(log.step_numbers)), svg)


def _title(metric: str, verdict: Verdict | None) -> str:
    known = description_of(metric)
    unit = known.unit if known else "1"
    of = metric if unit == "1" else f"{metric}, {unit}"
    return printable(f"{verdict.check}: {of}" if verdict else of)


def _first(points: Sequence[tuple[float, float]], verdict: Verdict | None) -> tuple[float, float] | None:
    if verdict is None or verdict.over_steps is None:
        return None
    step = step_of(verdict.over_steps.first_broken)
    return next((point for point in points if point[0] == step), None)


def _words(points: Sequence[tuple[float, float]], verdict: Verdict | None, steps: int) -> str:
    values = [value for _, value in points]
    said = [f"{len(points)} of {steps} steps, from {number(min(values))} to {number(max(values))}"]
    if verdict is not None:
        said.append(f"limit {verdict.sign} {number(verdict.effective_limit)}, {word(verdict)}")
        over = verdict.over_steps
        if over is not None and over.broken:
            said.append(f"broken at {over.broken} steps, first at {over.first_broken}")
    return printable("; ".join(said))


def _distributions(found: Distributions) -> Iterator[Figure]:
    if found.sizes:
        yield _histogram(found)
        yield _tail(found)
    if found.by_position:
        words = "by position in the response, in doubling bins; the band is two standard errors, tokens independent"
        yield Figure("mean log-ratio by position, nat", words, _means(found.by_position))
    if found.reward_by_length:
        words = "by response length in tokens, in doubling bins; the band is two standard errors"
        yield Figure("mean reward by length", words, _means(found.reward_by_length, first=0))


def _histogram(found: Distributions) -> Figure:
    sizes = found.sizes
    shown = [place for place in range(len(sizes)) if found.below[place] or found.above[place]]
    last = max(shown, default=0)
    least = next((place for place in shown if place), last)
    inner = sum(found.below[:least]) + sum(found.above[:least]) + found.equal
    below = [(f"-{sizes[i]:.2g}", found.below[i]) for i in range(last, least - 1, -1)]
    above = [(f"{sizes[i]:.2g}", found.above[i]) for i in range(least, last + 1)]
    counts = [*below, ("0", inner), *above]
    tokens = sum(count for _, count in counts)
    words = (
        f"{tokens:,} tokens, counts on a logarithmic scale; bins of log10 abs(l), 0 in the middle; "
        f"{found.equal:,} tokens are equal on both sides"
    )
    return Figure("log-ratio log pi_old - log mu, nat", words, bars(counts, marks=(0, len(below), len(counts) - 1)))


def _tail(found: Distributions) -> Figure:
    counts = [a + b for a, b in zip(found.below, found.above, strict=True)]
    tokens = sum(counts) + found.equal
    beyond = [(found.sizes[i], sum(counts[i:]) / tokens) for i in range(1, len(counts))]
    points = [(size, share) for size, share in beyond if share > 0] or [(1.0, 0.0)]
    past = next((share for size, share in beyond if size >= math.log(2)), 0.0)
    words = f"share of the tokens beyond a size, both axes logarithmic; about {past:.2g} lie past a ratio of 2"
    return Figure("tail: share of tokens with abs(l) above a size", words, curve(points, log_x=True, log_y=True))


def _means(bins: Sequence[Bin], first: int = 1) -> Markup:
    """A curve through the bins; what is counted from 0 is shown as counted from `first`."""
    starts = [max(float(one.start + first), 0.5) for one in bins]
    points = [(at, one.mean) for at, one in zip(starts, bins, strict=True)]
    widths = [2 * one.standard_error for one in bins]
    band = [(at, one.mean - w, one.mean + w) for at, one, w in zip(starts, bins, widths, strict=True)]
    return curve(points, band=band, log_x=True, log_y=False)
