"""The parts of `on_gpu`, each run in a process of its own: figures with units, written as they are found."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import numpy
import scipy
import torch
from safetensors import safe_open
from torch import Tensor

from benchmarks.family import EXPERTS, LARGE, Kind, Shape, Shapes
from benchmarks.pair import pair_of
from ckptaudit.pipeline.api import audit
from ckptaudit.results.records import AuditResult

TINY = Shapes("tiny", 160, 192, 4, 2, 160)
TINY_EXPERTS = Shapes("tiny mixture", 64, 32, 4, 2, 96, experts=4)
WHOLE = 4000
"""How many matrices of experts the mixture has at least."""

WORKERS = 8
"""Processes at most that share a card."""

QUICKLY_TESTED = ("tests/linalg/test_products.py",)
TESTED = ("tests/linalg", "tests/metrics", "tests/pipeline/test_devices.py")
SHIFT = "normalized_spectral_shift"
FAILURES = 20
TESTERS = 6
"""Processes of the tests at most: each has its own context on the card."""
RESERVE = 15
"""Seconds kept for pytest to end and report."""


@dataclass
class Run:
    """One part's run: what was asked for, and what was found so far."""

    file: Path
    scratch: Path
    device: str
    seconds: float
    quick: bool
    start: float = field(default_factory=time.monotonic)
    facts: dict[str, object] = field(default_factory=dict)
    figures: dict[str, dict[str, object]] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds left to it."""
        return self.seconds - (time.monotonic() - self.start)

    def fact(self, name: str, value: object) -> None:
        """Keep something that is no measurement."""
        self.facts[name] = value
        self._write()

    def figure(self, name: str, value: float, unit: str, **more: object) -> None:
        """Keep a number with its unit."""
        self.figures[name] = {"value": value, "unit": unit, **more}
        self._write()

    def synchronize(self) -> None:
        """Wait until the device has done what it was given."""
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize(self.device)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Keep the seconds that something takes."""
        self.synchronize()
        start = time.perf_counter()
        yield
        self.synchronize()
        self.figure(name, time.perf_counter() - start, "s")

    def seconds_of(self, name: str) -> float:
        """Those kept under a name."""
        value = self.figures[name]["value"]
        assert isinstance(value, float)
        return value

    def _write(self) -> None:
        aside = self.file.with_suffix(".part")
        aside.write_text(json.dumps({"facts": self.facts, "figures": self.figures}), encoding="utf-8")
        aside.replace(self.file)


def about(run: Run) -> None:
    """The card, its driver, and the versions."""
    run.fact("torch", torch.__version__)
    run.fact("cuda of torch", torch.version.cuda)
    run.fact("numpy, scipy", f"{numpy.__version__}, {scipy.__version__}")
    run.fact("driver", _driver())
    if torch.device(run.device).type == "cuda":
        facts = torch.cuda.get_device_properties(run.device)
        run.fact("card", facts.name)
        run.fact("multiprocessors", facts.multi_processor_count)
        run.figure("memory of the card", facts.total_memory / 2**20, "MiB")
    else:
        run.fact("card", "none: on the CPU")
    size = 512 if run.quick else 8192
    for dtype in (torch.float32, torch.float64):
        one = torch.randn(size, size, dtype=dtype, device=run.device)
        seconds = min(_taken(run, partial(torch.matmul, one, one)) for _ in range(4))
        run.figure(f"products in {str(dtype).removeprefix('torch.')}", 2e-9 * size**3 / seconds, "GFLOPS")


def tests(run: Run) -> None:
    """The tests that need a device; on a CPU the same ones there."""
    report = run.scratch / "tests.xml"
    marks = "gpu" if torch.device(run.device).type == "cuda" else "not gpu"
    where = QUICKLY_TESTED if run.quick else TESTED
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",
        "default",
        f"--junitxml={report}",
        "-m",
        marks,
    ]
    # A warning that only another torch gives is no failure of a device.
    if find_spec("xdist") is not None:
        command += ["-n", str(min(TESTERS, os.cpu_count() or 1))]
    process = subprocess.Popen([*command, "--continue-on-collection-errors", *where])
    try:
        code = process.wait(max(1.0, run.left - RESERVE))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # pytest reports what it has
        code = process.wait(RESERVE - 3)
        run.fact("stopped", "before all tests had run")
    run.fact("exit code of pytest", code)
    if report.is_file():
        _count(run, report)
    if code not in (0, 2):
        sys.exit(f"pytest ended with {code}")


def _count(run: Run, report: Path) -> None:
    cases = list(ElementTree.parse(report).iter("testcase"))
    bad = [(case, child) for case in cases for child in case if child.tag in ("failure", "error")]
    skipped = [child for case in cases for child in case if child.tag == "skipped"]
    run.figure("failed", len(bad), "tests")
    run.figure("skipped", len(skipped), "tests")
    run.figure("passed", len(cases) - len(bad) - len(skipped), "tests")
    run.fact("reasons of skipping", sorted({child.get("message", "") for child in skipped})[:FAILURES])
    named = {f"{case.get('classname')}::{case.get('name')}": (child.text or "")[-800:] for case, child in bad}
    run.fact("failures", dict(list(named.items())[:FAILURES]))


def layers(run: Run) -> None:
    """Gate and exact mode on two layers in the shapes of Qwen2.5-7B, against reading and copying the files."""
    count, kind = (1, _dense(TINY)) if run.quick else (2, _dense(LARGE))
    run.fact("pair", f"{count} layers, {kind.shapes.name}: {kind.name}")
    with run.timed("generation"):
        base, tuned = pair_of(count, run.scratch, kind, run.device)
    _warm_up(run)
    _files(run, base, tuned)
    result = _modes(run, "", base, tuned, run.device)
    shifts = {m.tensor: m.value for m in result.measurements if m.metric == SHIFT and m.value is not None}
    (run.scratch / "shifts.json").write_text(json.dumps(shifts), encoding="utf-8")
    copied = run.seconds_of("reading and copying both sides to the device")
    for mode in ("gate", "exact"):
        times = run.seconds_of(f"{mode}, cached") / copied
        run.figure(f"{mode}, cached, against reading and copying", times, "times")


def svd(run: Run) -> None:
    """`torch.linalg.svd` in float64 on the same device, of a sample; and the shift that it gives against ours."""
    base, tuned = _pair_on_disk(run)
    sampled: dict[Shape, float] = {}
    kept = run.scratch / "shifts.json"
    shifts: dict[str, float] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    torch.linalg.svd(torch.randn(64, 32, dtype=torch.float64, device=run.device), full_matrices=False)
    with (
        safe_open(base / "model.safetensors", "pt") as before,
        safe_open(tuned / "model.safetensors", "pt") as after,
    ):
        stored = {name: before.get_slice(name).get_shape() for name in before.keys()}  # noqa: SIM118
        shapes = {name: (shape[0], shape[1]) for name, shape in stored.items() if len(shape) == 2}
        for name in sorted(shapes, key=lambda name: _cubic(shapes[name])):
            if shapes[name] in sampled or 3 * _expected(sampled, shapes[name]) > run.left:
                continue
            sides = [side.get_tensor(name).to(run.device).double() for side in (before, after)]
            sampled[shapes[name]] = _decomposed(run, name, sides, shifts.get(name))
            _extrapolate(run, list(shapes.values()), sampled)


def _decomposed(run: Run, name: str, sides: list[Tensor], seen: float | None) -> float:
    """Seconds for one side; the shift between both is compared."""
    values, seconds = [], []
    for side in sides:
        start = time.perf_counter()
        values.append(torch.linalg.svd(side, full_matrices=False).S)
        run.synchronize()
        seconds.append(time.perf_counter() - start)
    run.figure(f"svd of {name}, {tuple(sides[0].shape)}", min(seconds), "s")
    shift = float(torch.linalg.vector_norm(values[1] - values[0]) / torch.linalg.vector_norm(values[0]))
    if seen is not None:
        run.figure(f"{SHIFT} of {name}, off by", abs(seen - shift) / shift, "relative", ours=seen, svd=shift)
    return min(seconds)


def _extrapolate(run: Run, shapes: list[Shape], sampled: dict[Shape, float]) -> None:
    total = 2 * sum(sampled.get(shape, _expected(sampled, shape)) for shape in shapes)
    how = (
        f"extrapolated from a matrix of each of {len(sampled)} shapes; others by long side times short side squared"
    )
    run.figure("svd of all matrices of both sides", total, "s", method=how)


def _expected(sampled: dict[Shape, float], shape: Shape) -> float:
    """By the largest that was timed; as fast as the float64 products of a card where none was."""
    if not sampled:
        return 0.0
    largest = max(sampled, key=_cubic)
    return sampled[largest] * _cubic(shape) / _cubic(largest)


def _cubic(shape: Shape) -> float:
    return float(max(shape)) * min(shape) ** 2


def experts(run: Run) -> None:
    """A mixture's small matrices: one layer on the device and on the CPU, and all of 4,000 where they fit."""
    shapes = TINY_EXPERTS if run.quick else EXPERTS
    kind, each = Kind("power law", "rank 8 and noise", shapes), 3 * shapes.experts
    count = 2 if run.quick else -(-WHOLE // each)
    run.fact("pair", f"{count} layers of {each} matrices of experts, {shapes.hidden} x {shapes.intermediate}")
    _warm_up(run)
    one = pair_of(1, run.scratch, kind, run.device)
    _sample_of_experts(run, one[0], each)
    _modes(run, "one layer: ", *one, run.device)
    names = [f"{mode}, {when}" for mode in ("gate", "exact") for when in ("first time", "cached")]
    expected = {name: count * run.seconds_of(f"one layer: {name}") for name in names}
    for name, seconds in expected.items():
        run.figure(f"all layers: {name}", seconds, "s", method="extrapolated from one layer")
    if torch.device(run.device).type != "cpu":
        _modes(run, "one layer, on the CPU: ", *one, "cpu")
    with run.timed("all layers: generation"):
        pair = pair_of(count, run.scratch, kind, run.device)
    _files(run, *pair)
    workers = str(max(2, min(WORKERS, (os.cpu_count() or 1) // 2)))
    _modes(run, f"all layers, {workers} processes: ", *pair, run.device, workers)
    if 1.2 * sum(expected.values()) > run.left:
        run.fact("all layers", "did not fit the time in one process: extrapolated from one layer")
        return
    _modes(run, "all layers: ", *pair, run.device)


def _sample_of_experts(run: Run, base: Path, each: int) -> None:
    """The time of float64 decompositions of a few experts, one after the other and as a stack."""
    with safe_open(base / "model.safetensors", "pt") as side:
        names = [name for name in side.keys() if "experts" in name and "down" in name][:16]  # noqa: SIM118
        stack = torch.stack([side.get_tensor(name) for name in names]).to(run.device).double()
    torch.linalg.svd(stack[:1], full_matrices=False)
    alone = _taken(run, lambda: [torch.linalg.svd(matrix, full_matrices=False) for matrix in stack])
    together = _taken(run, lambda: torch.linalg.svd(stack, full_matrices=False))
    gram = _taken(run, lambda: torch.linalg.eigh(stack @ stack.mT))
    for name, seconds in (("svd, one by one", alone), ("svd of a stack", together), ("eigh of a stack", gram)):
        run.figure(f"{name}, an expert", 1e3 * seconds / len(stack), "ms", method=f"mean of {len(stack)}")
    run.figure("one layer: svd of both sides", 2 * each * alone / len(stack), "s", method="extrapolated")


def _modes(run: Run, label: str, base: Path, tuned: Path, device: str, workers: str = "") -> AuditResult:
    """Gate and exact mode, each first with an empty cache and then with what that left."""
    for mode in ("gate", "exact"):
        cache = run.scratch / f"cache-{mode}"
        shutil.rmtree(cache, ignore_errors=True)
        for when in ("first time", "cached"):
            name = f"{label}{mode}, {when}"
            _forget_peak(device)
            with run.timed(name):
                result = _audit(base, tuned, device, cache, exact=mode == "exact", workers=workers)
            _keep_peak(run, device, name)
        run.fact(f"{label}{mode}", _verdicts(result))
        shutil.rmtree(cache, ignore_errors=True)
    return result


def _audit(base: Path, tuned: Path, device: str, cache: Path, *, exact: bool, workers: str = "") -> AuditResult:
    return audit(base, tuned, profile="rlvr", device=device, cache=cache, exact=exact, workers=workers)


def _verdicts(result: AuditResult) -> str:
    outcomes = [verdict.outcome for verdict in result.verdicts]
    return ", ".join(f"{outcomes.count(name)} {name}" for name in sorted(set(outcomes)))


def _warm_up(run: Run) -> None:
    """Libraries and kernels are loaded before anything is timed."""
    with run.timed("loading what the device needs"):
        pair = pair_of(1, run.scratch, _dense(TINY), run.device)
        for exact in (False, True):
            _audit(*pair, run.device, run.scratch / "cache-warm", exact=exact)


def _files(run: Run, base: Path, tuned: Path) -> None:
    """Reading both files, and reading and copying them to the device, tensor by tensor as a measurement does."""
    files = [side / "model.safetensors" for side in (base, tuned)]
    run.figure("both files", sum(file.stat().st_size for file in files), "bytes")
    with run.timed("reading both files"):
        for file in files:
            with file.open("rb", buffering=0) as opened:
                while opened.read(2**24):
                    pass
    name = "reading and copying both sides to the device"
    with run.timed(name):
        for file in files:
            with safe_open(file, "pt") as side:
                for tensor in side.keys():  # noqa: SIM118
                    side.get_tensor(tensor).to(run.device)
    if torch.device(run.device).type == "cuda":
        pinned = torch.empty(2**28, dtype=torch.uint8, pin_memory=True)
        seconds = min(_taken(run, lambda: pinned.to(run.device, non_blocking=True)) for _ in range(3))
        run.figure("copying from pinned memory", len(pinned) / seconds / 1e9, "GB/s")


def _pair_on_disk(run: Run) -> tuple[Path, Path]:
    count, shapes = (1, TINY) if run.quick else (2, LARGE)
    return pair_of(count, run.scratch, _dense(shapes), run.device)


def _dense(shapes: Shapes) -> Kind:
    return Kind("power law", "rank 8 and noise", shapes)


def _taken(run: Run, work: Callable[[], object]) -> float:
    run.synchronize()
    start = time.perf_counter()
    work()
    run.synchronize()
    return time.perf_counter() - start


def _forget_peak(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _keep_peak(run: Run, device: str, name: str) -> None:
    if torch.device(device).type == "cuda":
        run.figure(f"{name}: peak on the card", torch.cuda.max_memory_allocated(device) / 2**20, "MiB")


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "nvidia-smi is not there"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    asked = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return (asked.stdout or asked.stderr).strip()[:200]


PARTS = {part.__name__: part for part in (about, tests, layers, svd, experts)}


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("file", type=Path)
    parser.add_argument("--device", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    PARTS[given.part](Run(given.file, given.scratch, given.device, given.seconds, given.quick))


if __name__ == "__main__":
    main()
