"""Timed runs to the tables of docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from benchmarks.limits import Rates, Work
from benchmarks.modes import Mode
from benchmarks.timing import Run

MIB = 2**20


@dataclass(frozen=True)
class Results:
    """All runs by number of layers and mode; `torch` are the runs that only import it."""

    modes: Sequence[Mode]
    runs: Mapping[int, Mapping[str, Sequence[Run]]]
    torch: Sequence[Run]

    def best(self, layers: int, mode: str) -> float | None:
        """Seconds of the quickest run: what other processes did to it can only have added."""
        runs = self.runs[layers].get(mode)
        return min(run.seconds for run in runs) if runs else None

    def peak(self, layers: int, mode: str) -> float | None:
        """MiB beyond what importing torch takes, the largest of the runs."""
        runs = self.runs[layers].get(mode)
        floor = min(run.peak_bytes for run in self.torch)
        return (max(run.peak_bytes for run in runs) - floor) / MIB if runs else None

    @property
    def timed(self) -> list[Mode]:
        """The modes that were run at all."""
        return [mode for mode in self.modes if any(mode.name in runs for runs in self.runs.values())]


def speed(results: Results, layers: int) -> str:
    """Seconds of each mode at one size, and how many times faster it is than the comparators."""
    head = ["run", "s (best)", "s (median)", "runs", "x modeldelta", "x float64", "floor", "met"]
    rows = []
    for mode in results.timed:
        runs = results.runs[layers].get(mode.name)
        if not runs:
            continue
        ratios = {name: _ratio(results, layers, mode.name, name) for name in ("modeldelta", "float64", "cast")}
        seconds = [run.seconds for run in runs]
        rows.append(
            [mode.name, f"{min(seconds):.1f}", f"{median(seconds):.1f}", str(len(runs))]
            + [_times(ratios[name]) for name in ("modeldelta", "float64")]
            + [_floors(mode.faster), _met(mode.faster, ratios)]
        )
    return _table(head, rows)


def growth(results: Results) -> str:
    """Seconds at each size, and what each further layer adds."""
    sizes = sorted(results.runs)
    steps = list(pairwise(sizes))
    head = ["run", *(f"{n} layers (s)" for n in sizes), *(f"s a layer, {a} to {b}" for a, b in steps)]
    rows = []
    for mode in results.timed:
        best = {n: results.best(n, mode.name) for n in sizes}
        added = [_slope(a, best[a], b, best[b]) for a, b in steps]
        rows.append([mode.name, *(_number(best[n], 1) for n in sizes), *(_number(x, 2) for x in added)])
    return _table(head, rows)


def memory(results: Results, bound: float) -> str:
    """Peak memory beyond importing torch, in MiB."""
    sizes = sorted(results.runs)
    rows = [
        [mode.name, *(_number(results.peak(n, mode.name), 0) for n in sizes), f"{bound:.0f}" if mode.faster else ""]
        for mode in results.timed
    ]
    return _table(["run", *(f"{n} layers (MiB)" for n in sizes), "at most"], rows)


def family(taken: Mapping[str, Mapping[str, Run]], modes: Sequence[Mode]) -> str:
    """Seconds of each mode on each pair, of the processor in brackets; `closed` where the gate failed.

    Beside our modes, how many times faster than each comparator they were; an asterisk marks a floor not met.
    """
    timed = [mode for mode in modes if any(mode.name in runs for runs in taken.values())]
    rows = [
        [kind, *(_cell(mode, runs) for mode in timed), _peak(runs), _ending(runs)] for kind, runs in taken.items()
    ]
    return _table(["pair", *(mode.name for mode in timed), "peak (MiB)", "gate"], rows)


def _cell(mode: Mode, runs: Mapping[str, Run]) -> str:
    run = runs.get(mode.name)
    if run is None:
        return ""
    against = {name: runs[name].seconds / run.seconds for name in mode.faster if name in runs}
    ratios = [f"{ratio:.1f}{'' if ratio >= mode.faster[name] else '*'} x" for name, ratio in against.items()]
    return ", ".join([f"{run.seconds:.1f} ({run.cpu_seconds:.1f})", *ratios])


def _peak(runs: Mapping[str, Run]) -> str:
    return f"{max(run.peak_bytes for name, run in runs.items() if name.startswith(('gate', 'exact'))) / MIB:.0f}"


def _ending(runs: Mapping[str, Run]) -> str:
    return "closed" if next(iter(runs.values())).code else "open"


def limits(results: Results, layers: int, work: Mapping[str, Work], rates: Rates) -> str:
    """The least time for reading, passing over and multiplying, and how far from it each mode is."""
    start = min(run.seconds for run in results.torch)
    head = ["run", "read (s)", "pass (s)", "multiply (s)", "limit (s)", "measured, less import torch (s)", "times"]
    rows = []
    for mode in results.timed:
        best = results.best(layers, mode.name)
        if best is None:
            continue
        parts = work[mode.name].seconds(rates)
        least, took = sum(parts.values()), best - start
        rows.append([mode.name, *(f"{x:.2f}" for x in (*parts.values(), least, took)), f"{took / least:.1f}"])
    return _table(head, rows)


def _ratio(results: Results, layers: int, mode: str, other: str) -> float | None:
    mine, theirs = results.best(layers, mode), results.best(layers, other)
    return None if mine is None or theirs is None or mode == other else theirs / mine


def _floors(faster: Mapping[str, float]) -> str:
    words = [f"{x:g} x {name}" if x >= 1 else f"within {1 / x:g} x {name}" for name, x in faster.items()]
    return ", ".join(words)


def _met(faster: Mapping[str, float], ratios: Mapping[str, float | None]) -> str:
    found = [(ratios[name], floor) for name, floor in faster.items() if ratios[name] is not None]
    if not found:
        return ""
    return "yes" if all(ratio is not None and ratio >= floor for ratio, floor in found) else "no"


def _slope(a: int, at_a: float | None, b: int, at_b: float | None) -> float | None:
    return None if at_a is None or at_b is None else (at_b - at_a) / (b - a)


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
