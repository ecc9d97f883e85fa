"""A run placed beside the published figures of reinforcement learning, distillation and fine-tuning."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from ckptaudit.metrics import Measurement
from ckptaudit.report.html.cells import parameters
from ckptaudit.report.places import is_body
from ckptaudit.results.records import AuditResult

PUBLISHED = Path(__file__).parent.parent / "published.toml"
REGIMES = {"rlvr": "RLVR", "distillation": "on-policy distillation", "sft": "supervised fine-tuning"}
SMALLEST = 1e-9

Range = tuple[float, float]


class Quantity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One published figure with its source; the file says what the fields mean."""

    metric: str
    name: str
    over: Literal["mean", "weighted_mean", "changed_mean"]
    scale: Literal["log", "linear"]
    rlvr: Range
    distillation: Range
    sft: Range
    exactness: str
    models: str
    source: str
    chance: float | None = None
    own_chance: float | None = None

    def regimes(self) -> dict[str, Range]:
        """The three ranges, set against chance where the quantity has one."""
        ranges = {"rlvr": self.rlvr, "distillation": self.distillation, "sft": self.sft}
        return {name: (self._above(low), self._above(high)) for name, (low, high) in ranges.items()}

    def own(self, value: float) -> float:
        """The pair's value on the same footing."""
        return value if self.own_chance is None else (value - self.own_chance) / (1.0 - self.own_chance)

    def _above(self, value: float) -> float:
        return value if self.chance is None else (value - self.chance) / (1.0 - self.chance)


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """A run's number beside a published one, formed over `matrices` of the run.

    `nearest` names regimes; empty where nothing can be said.
    """

    quantity: Quantity
    value: float | None
    is_bound: bool
    matrices: int
    regimes: dict[str, Range]
    nearest: tuple[str, ...]

    @property
    def words(self) -> str:
        """Where the run lies, in words."""
        if self.value is None:
            return "not measured"
        if not self.nearest:
            return "not placed: known only as a bound"
        return " or ".join(REGIMES[name] for name in self.nearest)


class Likeness(msgspec.Struct, frozen=True):
    """What the placed quantities say together: a word for the heading, and a sentence that counts them."""

    word: str
    sentence: str


@cache
def published() -> tuple[Quantity, ...]:
    """The published figures."""
    return tuple(msgspec.convert(tomllib.loads(PUBLISHED.read_text("utf-8"))["quantity"], list[Quantity]))


def placed(result: AuditResult, run: str) -> tuple[Placed, ...]:
    """The run's attention and MLP matrices, summed up as each published figure was."""
    wanted = {q.metric for q in published()} | {"changed_entries"}
    body = [m for m in result.measurements if m.tuned == run and m.metric in wanted and is_body(m)]
    return tuple(_place(quantity, body) for quantity in published())


def likeness(rows: Sequence[Placed]) -> Likeness:
    """A majority of the placed quantities gives the word."""
    sparsity = next((p.value for p in rows if p.quantity.metric == "update_sparsity"), None)
    if sparsity == 1.0:
        return Likeness("unchanged", "No attention or MLP weight changed visibly in bf16; nothing to place.")
    said = [p.nearest for p in rows if p.nearest]
    if not said:
        return Likeness("not placed", "None of the published quantities was measured exactly in this run.")
    counts = {name: sum(name in nearest for nearest in said) for name in REGIMES}
    word = next((f"like {REGIMES[n]}" for n in REGIMES if counts[n] * 2 > len(said)), "between the regimes")
    parts = ", ".join(f"to {REGIMES[name]} in {counts[name]}" for name in REGIMES if counts[name])
    return Likeness(word, f"Of {len(said)} published quantities that could be placed, it is nearest {parts}.")


def _place(quantity: Quantity, body: Sequence[Measurement]) -> Placed:
    own = [m for m in body if m.metric == quantity.metric]
    is_bound = any(m.kind != "exact" for m in own)
    raw = None if any(m.value is None for m in own) else _summed_up(quantity, own, body)
    value = None if raw is None else quantity.own(raw)
    regimes = quantity.regimes()
    nearest = () if value is None or is_bound else _nearest(value, regimes, quantity.scale)
    return Placed(
        quantity=quantity, value=value, is_bound=is_bound, matrices=len(own), regimes=regimes, nearest=nearest
    )


def _summed_up(quantity: Quantity, own: Sequence[Measurement], body: Sequence[Measurement]) -> float | None:
    weights = _weights(quantity, own, body)
    total = math.fsum(weights)
    return math.fsum(w * (m.value or 0.0) for w, m in zip(weights, own, strict=True)) / total if total else None


def _weights(quantity: Quantity, own: Sequence[Measurement], body: Sequence[Measurement]) -> list[float]:
    if quantity.over == "mean":
        return [1.0 for _ in own]
    if quantity.over == "weighted_mean":
        return [float(parameters(m)) for m in own]
    changed = {m.tensor: m.value or 0.0 for m in body if m.metric == "changed_entries"}
    return [changed.get(m.tensor, 0.0) for m in own]


def _nearest(value: float, regimes: dict[str, Range], scale: str) -> tuple[str, ...]:
    distances = {name: _distance(value, reach, scale) for name, reach in regimes.items()}
    least = min(distances.values())
    return tuple(name for name, distance in distances.items() if math.isclose(distance, least, abs_tol=1e-12))


def _distance(value: float, reach: Range, scale: str) -> float:
    x, low, high = (math.log(max(v, SMALLEST)) if scale == "log" else v for v in (value, *reach))
    return max(low - x, x - high, 0.0)
