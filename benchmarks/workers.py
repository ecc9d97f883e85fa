"""What Ray costs beside plain processes, at two workers: `python -m benchmarks.workers FOLDER [LAYERS] [ROUNDS]`.

The same tasks of the generated pair, in turns. Time by the clock is from the first task to the last answer, once
all workers have opened the pair; processor time is that of both workers in the meantime. The start stands apart.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.modes import Place
from ckptaudit.judging.config import Config
from ckptaudit.measurement.crew import Crew
from ckptaudit.measurement.process_workers import ProcessWorker, receive, send, threads_environment
from ckptaudit.measurement.ray_workers import Measure, RayCluster
from ckptaudit.options import AuditOptions
from ckptaudit.pipeline.api import PreparedAudit, prepare
from ckptaudit.pipeline.execution import execute
from ckptaudit.pipeline.workers import Workers, _spec, open_work

WORKERS = 2
SPENT = "CKPTAUDIT_BENCH_SPENT"
"""Names the folder in which each worker notes its processor time."""


@dataclass(frozen=True)
class Run:
    """One run: seconds until the first answer's worker was ready, by the clock from then on, and of processors."""

    start: float
    clock: float
    processor: float


def open_noting(spec: bytes) -> tuple[str, Measure]:
    """As a worker of the audit, which notes its processor time behind every task."""
    refused, measure = open_work(spec)
    note = Path(os.environ[SPENT]) / str(os.getpid())
    first = time.process_time()
    note.write_text(f"{first} {first}")

    def measured(task: bytes) -> bytes:
        answer = measure(task)
        note.write_text(f"{first} {time.process_time()}")
        return answer

    return refused, measured


def serve() -> None:
    """A plain process: see ckptaudit.pipeline.worker."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    refused, measure = open_noting(receive(sys.stdin.buffer) or b"")
    send(answers, refused.encode())
    while (task := receive(sys.stdin.buffer)) is not None:
        send(answers, measure(task))


def main(folder: Path, layers: int, rounds: int) -> None:
    """Print a row for each run."""
    made = subprocess.run(
        [sys.executable, "-m", "benchmarks.pair", str(layers), str(folder)],
        check=True,
        capture_output=True,
        text=True,
    )
    base, tuned = made.stdout.split()
    place = Place(Path(base), Path(tuned), folder)
    print("| workers | start (s) | by the clock (s) | processor (s) |\n| --- | --- | --- | --- |")
    for _ in range(rounds):
        for kind in ("processes", "ray"):
            run = _timed(kind, place)
            print(f"| {kind} | {run.start:.1f} | {run.clock:.1f} | {run.processor:.1f} |", flush=True)


def _timed(kind: str, place: Place) -> Run:
    options = AuditOptions(base=str(place.base), tuned=(str(place.tuned),), cache="off")
    prepared = prepare(options, Config())
    with tempfile.TemporaryDirectory() as spent:
        os.environ[SPENT] = spent
        started = time.perf_counter()
        with _crew(kind, prepared) as crew:
            _wait_for_all(crew)
            ready = time.perf_counter()
            execute(prepared.plan, source=Workers(prepared.plan, crew))
            ended = time.perf_counter()
        pairs = [tuple(map(float, note.read_text().split())) for note in Path(spent).iterdir()]
        return Run(ready - started, ended - ready, sum(last - first for first, last in pairs))


@contextmanager
def _crew(kind: str, prepared: PreparedAudit) -> Iterator[Crew]:
    spec = _spec(prepared.opened, prepared.plan)
    if kind == "processes":
        crew = Crew(lambda: ProcessWorker("benchmarks.workers", spec, threads_environment(1)), WORKERS)
        yield crew
        crew.stop()
        return
    cluster = RayCluster()
    crew = Crew(lambda: cluster.worker(open_noting, spec, threads=1, gpu=False), WORKERS)
    yield crew
    crew.stop()
    cluster.close()


def _wait_for_all(crew: Crew) -> None:
    """Start every worker, and wait until each has opened the pair."""
    crew._hire(WORKERS)
    for future in list(crew.starting):
        with suppress(Exception):
            future.result()
        crew._started(future)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        serve()
    else:
        main(Path(sys.argv[1]), *(int(word) for word in (*sys.argv[2:], *("24", "2")[len(sys.argv) - 2 :])))
