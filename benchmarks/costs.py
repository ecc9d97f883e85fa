"""How well predicted costs agree with time taken, shape by shape: `python -m benchmarks.costs FOLDER`.

One thread; processor time, the best of three for short ones. The pair is the first of benchmarks.family.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from threadpoolctl import threadpool_limits

from benchmarks.family import BENCH, Bases, updated
from ckptaudit.judging.config import Config
from ckptaudit.measurement.cost import cost_of_task
from ckptaudit.measurement.tasks import rows_of, tasks_of
from ckptaudit.options import AuditOptions
from ckptaudit.pipeline.api import prepare

Shape = tuple[int, ...]

SHAPES: tuple[Shape, ...] = (
    (64,), (4096,), (16, 24), (64, 64), (96, 96), (64, 2048),
    (128, 128), (128, 896), (256, 256), (256, 1024), (512, 512), (896, 896), (1024, 1024), (576, 7168),
    (1536, 1536), (4864, 896), (2048, 2048), (2048, 7168), (1536, 7168), (3072, 3072), (24576, 1536),
)  # fmt: skip
SMALL = 128
LONG = 1536


def main(folder: Path) -> None:
    """Print a row for each shape and mode."""
    torch.set_num_threads(1)
    print("| shape | mode | predicted (s) | measured (s) | ratio |\n| --- | --- | --- | --- | --- |")
    with threadpool_limits(1):
        for exact in (False, True):
            for shape in SHAPES:
                print(_row(folder, shape, exact=exact), flush=True)


def _row(folder: Path, shape: Shape, *, exact: bool) -> str:
    base, tuned = _pair(folder / "x".join(map(str, shape)), shape)
    prepared = prepare(AuditOptions(base=str(base), tuned=(str(tuned),), cache="off", exact=exact), Config())
    plan = prepared.plan
    jobs = [job for unit in plan.units if unit.scope == "matrix" for job in plan.jobs(unit)]
    tasks = tasks_of(jobs, plan.computing.batch_bytes)
    predicted = sum(cost_of_task(task, exact=exact) for task in tasks) / len(jobs)
    measured = min(_times(tasks, plan.effective_computing, 1 if min(shape) >= LONG else 3)) / len(jobs)
    mode = "exact" if exact else "gate"
    return f"| {list(shape)} | {mode} | {predicted:.4f} | {measured:.4f} | {predicted / measured:.2f} |"


def _times(tasks: list, computing: object, rounds: int) -> Iterator[float]:  # type: ignore[type-arg]
    for _ in range(rounds):
        started = time.thread_time()
        for task in tasks:
            rows_of(task.outcomes(computing))
        yield time.thread_time() - started


def _pair(home: Path, shape: Shape) -> tuple[Path, Path]:
    if not home.is_dir():
        random = torch.Generator().manual_seed(0)
        bases = Bases(random)
        count = 1 if len(shape) > 1 and min(shape) >= SMALL else 64
        names = [f"model.layers.0.mlp.experts.{i}.up_proj.weight" for i in range(count)]
        base = {
            name: bases.matrix(BENCH.base, (shape[0], shape[1]))
            if len(shape) > 1
            else torch.randn(shape, generator=random).bfloat16()
            for name in names
        }
        tuned = {name: updated(weight, BENCH.update, random) for name, weight in base.items()}
        for side, tensors in (("base", base), ("tuned", tuned)):
            (home / side).mkdir(parents=True)
            save_file(tensors, home / side / "model.safetensors")
    return home / "base", home / "tuned"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
