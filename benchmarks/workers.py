"""What Ray costs beside plain processes, at two workers: `python -m benchmarks.workers FOLDER [LAYERS] [ROUNDS]`.

The same tasks of the generated pair, in turns. Time by the clock is from the first task to the last answer, once
all workers have opened the pair. Beside other work it says little, so each worker divides its own time: on a
processor, queued for one (as Linux counts it), and at rest, which is when it waits for its next task. The longer of
the two without what it was queued is the clock of an undisturbed machine. The start and the processor time of Ray's
own daemons stand apart.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.modes import Place
from ckptaudit.judging.config import Config
from ckptaudit.measurement.crew import Crew
from ckptaudit.measurement.process_workers import ProcessWorker, receive, send, start_process, threads_environment
from ckptaudit.measurement.ray_workers import Measure, RayCluster
from ckptaudit.options import AuditOptions
from ckptaudit.pipeline.api import PreparedAudit, prepare
from ckptaudit.pipeline.execution import execute
from ckptaudit.pipeline.sent_work import open_work
from ckptaudit.pipeline.workers import Workers, _document, _spec

WORKERS = 2
TICKS = os.sysconf("SC_CLK_TCK")
SPENT = "CKPTAUDIT_BENCH_SPENT"
"""Names the folder in which each worker notes its times."""


@dataclass(frozen=True)
class Times:
    """Of one worker or between two moments of it, in seconds: by the clock, of its processor, waiting for one."""

    clock: float
    processor: float
    queued: float

    @classmethod
    def now(cls) -> Times:
        """Those of the calling thread up to now."""
        queued = int(Path("/proc/thread-self/schedstat").read_text().split()[1])
        return cls(time.perf_counter(), time.thread_time(), queued / 1e9)

    def since(self, other: Times) -> Times:
        """What has passed since then."""
        return Times(self.clock - other.clock, self.processor - other.processor, self.queued - other.queued)

    @property
    def rest(self) -> float:
        """Neither on a processor nor waiting for one."""
        return self.clock - self.processor - self.queued


@dataclass(frozen=True)
class Run:
    """One run in seconds: until all workers were ready, by the clock from then on, of each worker, of daemons."""

    start: float
    clock: float
    workers: tuple[Times, ...]
    daemons: float

    @property
    def row(self) -> str:
        """A row of the table."""
        processor = sum(one.processor for one in self.workers)
        rest = max(one.rest for one in self.workers)
        undisturbed = max(one.processor + one.rest for one in self.workers)
        numbers = (self.start, self.clock, processor, rest, undisturbed, self.daemons)
        return " | ".join(f"{number:.1f}" for number in numbers)


def open_noting(spec: bytes) -> tuple[str, Measure]:
    """As a worker of the audit, which notes its times behind every task."""
    refused, measure = open_work(spec)
    note = Path(os.environ[SPENT]) / str(os.getpid())
    first: list[Times] = []

    def measured(task: bytes) -> bytes:
        if not first:
            first.append(Times.now())
        answer = measure(task)
        took = Times.now().since(first[0])
        note.write_text(f"{took.clock} {took.processor} {took.queued}")
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
    print(
        "| workers | start (s) | by the clock (s) | processor (s) | at rest (s) | undisturbed (s) | daemons (s) |"
    )
    print("| --- " * 7 + "|")
    for _ in range(rounds):
        for kind in ("processes", "ray"):
            run = _timed(kind, place)
            print(f"| {kind} | {run.row} |", flush=True)


def _timed(kind: str, place: Place) -> Run:
    options = AuditOptions(base=str(place.base), tuned=(str(place.tuned),), cache="off")
    prepared = prepare(options, Config())
    with tempfile.TemporaryDirectory() as spent:
        os.environ[SPENT] = spent
        started = time.perf_counter()
        with _crew(kind, prepared) as crew:
            _wait_for_all(crew)
            ready, before = time.perf_counter(), _of_daemons()
            execute(prepared.plan, source=Workers(prepared.plan, crew))
            ended, daemons = time.perf_counter(), _of_daemons() - before
        found = tuple(Times(*map(float, note.read_text().split())) for note in Path(spent).iterdir())
        if len(found) != WORKERS:
            raise SystemExit(f"{kind}: {len(found)} of {WORKERS} workers measured anything")
        return Run(ready - started, ended - ready, found, daemons)


def _of_daemons() -> float:
    """Processor time of whatever this process started but for workers, as far as it still runs."""
    found: dict[int, tuple[int, str, float]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, numbers = stat.read_text().partition(") ")
            fields = numbers.split()
            found[int(stat.parent.name)] = int(fields[1]), name, (int(fields[11]) + int(fields[12])) / TICKS
    below = {os.getpid()}
    for pid in sorted(found):
        below |= {pid} if found[pid][0] in below else set()
    below.discard(os.getpid())
    return sum(found[pid][2] for pid in below if "(raylet" in found[pid][1] or "(gcs_server" in found[pid][1])


@contextmanager
def _crew(kind: str, prepared: PreparedAudit) -> Iterator[Crew]:
    spec = _spec(_document(prepared.opened, prepared.plan, "cpu"))
    if kind == "processes":
        crew = Crew(_process(spec), WORKERS)
        yield crew
        crew.stop()
        return
    cluster = RayCluster("local")
    crew = Crew(lambda: cluster.worker(open_noting, spec, threads=1, gpu=False), WORKERS)
    yield crew
    crew.stop()
    cluster.close()


def _process(spec: bytes) -> Callable[[], ProcessWorker]:
    return lambda: ProcessWorker(start_process(threads_environment(1), program="benchmarks.workers"), spec)


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
