"""The parts of `on_gpu`, each run in a process of its own: figures with units, written as they are found."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path

import numpy
import scipy
import torch
from safetensors import safe_open
from torch import Tensor

from benchmarks.family import EXPERTS, LARGE, Kind, Shape, Shapes
from benchmarks.gpu_figures import Run, seconds_for
from benchmarks.gpu_tests import tests
from benchmarks.pair import pair_of
from ckptaudit.pipeline.api import audit
from ckptaudit.results.records import AuditResult

TINY = Shapes("tiny", 160, 192, 4, 2, 160)
TINY_EXPERTS = Shapes("tiny mixture", 64, 32, 4, 2, 96, experts=4)
WHOLE = 4000
"""How many matrices of experts the mixture has at least."""

FIRST, CACHED, VERDICTS = "first time", "cached", "cached, verdicts alone"
"""With an empty cache; with what that left; and without the quantities that no check asks for."""

WORKERS = 8
"""Processes at most that share a card."""

SHIFT = "normalized_spectral_shift"


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
        seconds = min(seconds_for(run, partial(torch.matmul, one, one)) for _ in range(4))
        run.figure(f"products in {str(dtype).removeprefix('torch.')}", 2e-9 * size**3 / seconds, "GFLOPS")


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
        for when in (CACHED, VERDICTS):
            times = run.seconds_of(f"{mode}, {when}") / copied
            run.figure(f"{mode}, {when}, against reading and copying", times, "times")


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
    names = [f"{mode}, {when}" for mode in ("gate", "exact") for when in (FIRST, CACHED)]
    expected = {name: count * run.seconds_of(f"one layer: {name}") for name in names}
    for name, seconds in expected.items():
        run.figure(f"all layers: {name}", seconds, "s", method="extrapolated from one layer")
    if torch.device(run.device).type != "cpu":
        _modes(run, "one layer, on the CPU: ", *one, "cpu", modes=("gate",))
    with run.timed("all layers: generation"):
        pair = pair_of(count, run.scratch, kind, run.device)
    _files(run, *pair)
    workers = str(max(2, min(WORKERS, (os.cpu_count() or 1) // 2)))
    _modes(run, f"all layers, {workers} processes: ", *pair, run.device, workers, modes=("gate",))
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
    alone = seconds_for(run, lambda: [torch.linalg.svd(matrix, full_matrices=False) for matrix in stack])
    together = seconds_for(run, lambda: torch.linalg.svd(stack, full_matrices=False))
    gram = seconds_for(run, lambda: torch.linalg.eigh(stack @ stack.mT))
    for name, seconds in (("svd, one by one", alone), ("svd of a stack", together), ("eigh of a stack", gram)):
        run.figure(f"{name}, an expert", 1e3 * seconds / len(stack), "ms", method=f"mean of {len(stack)}")
    run.figure("one layer: svd of both sides", 2 * each * alone / len(stack), "s", method="extrapolated")


def _modes(
    run: Run,
    label: str,
    base: Path,
    tuned: Path,
    device: str,
    workers: str = "",
    *,
    modes: tuple[str, ...] = ("gate", "exact"),
) -> AuditResult:
    """Gate and exact mode: with an empty cache, with what that left, and without what no check asks for."""
    for mode in modes:
        cache = run.scratch / f"cache-{mode}"
        shutil.rmtree(cache, ignore_errors=True)
        for when, complete in ((FIRST, True), (VERDICTS, False), (CACHED, True)):
            name = f"{label}{mode}, {when}"
            _forget_peak(device)
            with run.timed(name):
                result = _audit(
                    base, tuned, device, cache, exact=mode == "exact", complete=complete, workers=workers
                )
            _keep_peak(run, device, name)
        run.fact(f"{label}{mode}", _verdicts(result))
        shutil.rmtree(cache, ignore_errors=True)
    return result


def _audit(
    base: Path, tuned: Path, device: str, cache: Path, *, exact: bool, complete: bool = True, workers: str = ""
) -> AuditResult:
    return audit(
        base, tuned, profile="rlvr", device=device, cache=cache, exact=exact, complete=complete, workers=workers
    )


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
        seconds = min(seconds_for(run, lambda: pinned.to(run.device, non_blocking=True)) for _ in range(3))
        run.figure("copying from pinned memory", len(pinned) / seconds / 1e9, "GB/s")


def _pair_on_disk(run: Run) -> tuple[Path, Path]:
    count, shapes = (1, TINY) if run.quick else (2, LARGE)
    return pair_of(count, run.scratch, _dense(shapes), run.device)


def _dense(shapes: Shapes) -> Kind:
    return Kind("power law", "rank 8 and noise", shapes)


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
