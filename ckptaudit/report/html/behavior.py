"""What the page shows of behavior: values of probe sets, divergence by position, the probes that differ most."""

from __future__ import annotations

from dataclasses import dataclass

from ckptaudit.behavior.shown import PositionCurve, ShownProbe, ShownToken
from ckptaudit.errors import printable
from ckptaudit.metrics import Measurement
from ckptaudit.metrics.descriptions import scope_of
from ckptaudit.report.appearance import number
from ckptaudit.report.failure import quantity
from ckptaudit.report.html.bars import Chart, bar_charts
from ckptaudit.results.behavior import BehaviorRecord
from ckptaudit.results.records import AuditResult

WIDTH, HEIGHT = 300, 90
"""Units of a curve's drawing."""

MOST = 4
"""Levels of a token's colour on either side; one for each nat."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token with the class of its colour and what its tooltip says."""

    text: str
    level: str
    said: str


@dataclass(frozen=True, slots=True)
class Value:
    """A metric of a probe set: value, interval, and how many probes."""

    metric: str
    subject: str
    value: str
    interval: str
    probes: str
    remark: str


@dataclass(frozen=True, slots=True)
class Curve:
    """Divergence by position as the points of a line; `top` is the value at the upper edge."""

    title: str
    points: str
    top: str
    last: int


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe with both answers side by side."""

    shown: ShownProbe
    title: str
    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class BehaviorView:
    """One run on its probes."""

    tuned: str
    words: tuple[str, ...]
    charts: tuple[Chart, ...]
    values: tuple[Value, ...]
    curves: tuple[Curve, ...]
    probes: tuple[Probe, ...]


def behavior_views(result: AuditResult) -> tuple[BehaviorView, ...]:
    """A view for each run whose models were run."""
    return tuple(_view(result, record) for record in result.behavior)


def _view(result: AuditResult, record: BehaviorRecord) -> BehaviorView:
    measured = [m for m in result.measurements if m.tuned == record.tuned and is_of_probes(m)]
    return BehaviorView(
        tuned=printable(record.tuned),
        words=(
            f"{record.excerpt.probes:,} probes of {printable(record.path)}; rounding alone comes to "
            f"{record.excerpt.floor:.2g} nats per token.",
            *map(printable, record.excerpt.notes),
        ),
        charts=bar_charts(result, record.tuned, measured),
        values=tuple(map(_value, measured)),
        curves=tuple(map(_curve, record.excerpt.curves)),
        probes=tuple(map(_probe, record.excerpt.shown)),
    )


def is_of_probes(m: Measurement) -> bool:
    """Whether a measurement is of a probe set."""
    return scope_of(m.metric) == "probes"


def _value(m: Measurement) -> Value:
    ends = "" if m.low is None or m.high is None else f"{number(m.low)} to {number(m.high)}"
    value = "not judged" if m.value is None else quantity(m.metric, m.value)
    return Value(m.metric, printable(m.tensor), value, ends, f"{m.samples or 0:,}", printable(m.remark))


def _curve(curve: PositionCurve) -> Curve:
    top = max(*curve.kl, 1e-12) if len(curve.kl) > 1 else max(curve.kl[0], 1e-12)
    step = WIDTH / max(1, len(curve.kl) - 1)
    points = " ".join(f"{at * step:.1f},{HEIGHT * (1 - value / top):.1f}" for at, value in enumerate(curve.kl))
    what = "answers of the tuned model" if curve.of_answers else "given text"
    return Curve(f"set {printable(curve.set)}, {what}", points, f"{top:.3g} nats", len(curve.kl))


def _probe(shown: ShownProbe) -> Probe:
    where = f"{shown.probe} of set {shown.set}" if shown.set else shown.probe
    what = "the tuned model's answer" if shown.of_answer else "the given text"
    title = printable(f"{where}: {shown.kl:.3g} nats per token of {what}")
    return Probe(shown, title, tuple(map(_token, shown.tokens)))


def _token(token: ShownToken) -> Token:
    level = max(-MOST, min(MOST, round(token.log_ratio)))
    side = "up" if level > 0 else "down"
    said = f"log t/b {token.log_ratio:.2f}, KL {token.kl:.3g}"
    return Token(token.text or "\u00a0", f"{side}{abs(level)}" if level else "even", said)
