"""Tasks given out to workers in other processes: each worker one at a time, a lost worker's task to another one."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Protocol

from ckptaudit.errors import MeasurementError, parameter, printable

logger = logging.getLogger(__name__)

TRIES = 3
"""How often a task is begun: a worker that is killed may have been so because of what it measured."""

HIRED = TRIES + 1
"""How many workers are hired for one place: as many as a task may cost, which may have been among others before."""

PATIENCE_S = 300.0
"""Seconds to wait for a first worker where none is at work."""


MOST_WORKERS = 1024
RAY = "ray"


def parse_workers(text: str) -> tuple[int, str]:
    """`N`, `ray` or `ray:ADDRESS` as a number of processes, 0 for Ray, and an address. Raises MeasurementError."""
    kind, _, address = text.partition(":")
    if kind == RAY and (address or ":" not in text):
        return 0, address
    if text.isascii() and text.isdecimal() and len(text) < 6 and 1 <= int(text) <= MOST_WORKERS:
        return int(text), ""
    raise MeasurementError(
        f"{parameter('workers')} {printable(text)[:60]}: a number of processes from 1 to {MOST_WORKERS}, ray, or "
        "ray:ADDRESS is needed."
    )


class WorkerLostError(Exception):
    """The process of a worker is gone: killed, out of memory, or its machine with it."""


class Worker(Protocol):
    """A process that measures tasks, one after the other. Futures raise WorkerLostError if it is lost."""

    def start(self) -> Future[bytes]:
        """Begin; what comes back is empty, or says in UTF-8 why this worker cannot measure anything."""

    def submit(self, task: bytes) -> Future[bytes]:
        """Measure a task."""

    def stop(self) -> None:
        """End it, if it is still there."""


@dataclass
class Crew:
    """Up to `size` workers, hired when there is work and kept until `stop`; `hire` may raise OSError."""

    hire: Callable[[], Worker]
    size: int
    patience: float = PATIENCE_S
    idle: list[Worker] = field(default_factory=list)
    starting: dict[Future[bytes], Worker] = field(default_factory=dict)
    hired: int = 0
    refused: str = ""
    """Why a worker could not measure anything."""

    def run(self, tasks: Sequence[bytes], *, most: int = TRIES) -> Iterator[tuple[int, bytes | str]]:
        """Tasks by position as they are done, the first ones begun first; a text says why one never was.

        Each is begun `most` times at most.
        """
        waiting, tries = deque(range(len(tasks))), Counter[int]()
        working: dict[Future[bytes], tuple[Worker, int]] = {}
        self._hire(min(len(tasks), self.size) - len(self.idle) - len(self.starting))
        try:
            while waiting or working:
                while waiting and self.idle:
                    worker, position = self.idle.pop(), waiting.popleft()
                    working[worker.submit(tasks[position])] = worker, position
                done = wait([*working, *self.starting], None if working else self.patience, FIRST_COMPLETED).done
                if not done:
                    yield from ((position, self._why_none()) for position in waiting)
                    return
                for future in done:
                    if future in self.starting:
                        self._started(future)
                        continue
                    worker, position = working.pop(future)
                    answer = self._answer(future, worker)
                    if answer is not None:
                        yield position, answer
                        continue
                    tries[position] += 1
                    if tries[position] < most:
                        waiting.appendleft(position)
                    else:
                        who = f"{most} workers" if most > 1 else "the worker"
                        yield position, f"{who} that measured it broke off"
                    self._hire(1)
        finally:
            # Those of whom nobody waits for an answer any more are stopped along with the others.
            self.idle += [worker for worker, _ in working.values()]

    def stop(self) -> None:
        """End all workers that are at rest or starting; whoever stops listening leaves none behind."""
        for worker in (*self.idle, *self.starting.values()):
            worker.stop()
        self.idle.clear()
        self.starting.clear()

    def _hire(self, wanted: int) -> None:
        """Start workers, at most a few for each place: a cluster that kills them all must come to an end."""
        for _ in range(wanted):
            if self.hired < HIRED * self.size and not self.refused:
                self.hired += 1
                try:
                    worker = self.hire()
                except OSError:
                    logger.debug("a worker could not be started", exc_info=True)
                    continue
                self.starting[worker.start()] = worker

    def _started(self, future: Future[bytes]) -> None:
        worker = self.starting.pop(future)
        try:
            self.refused = future.result().decode() or self.refused
            usable = not self.refused
        except WorkerLostError:
            usable = False
            self._hire(1)
        if usable:
            self.idle.append(worker)
        else:
            worker.stop()

    def _answer(self, future: Future[bytes], worker: Worker) -> bytes | None:
        try:
            answer = future.result()
        except WorkerLostError:
            logger.debug("a worker was lost", exc_info=True)
            worker.stop()
            return None
        self.idle.append(worker)
        return answer

    def _why_none(self) -> str:
        return self.refused or "no worker could be started"
