"""Workers as actors of a Ray cluster: names and numbers travel, tensors never."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ckptaudit.errors import MeasurementError, parameter, printable
from ckptaudit.measurement.crew import WorkerLostError
from ckptaudit.measurement.process_workers import threads_environment

KNOCK_S = 10.0

Measure = Callable[[bytes], bytes]
Open = Callable[[bytes], tuple[str, Measure]]
"""What a worker opens, from the document that says what: why it cannot measure, or "", and how it measures."""


class RayCluster:
    """A cluster that was joined, or started here; `close` leaves it, and ends what was started.

    Raises MeasurementError without Ray, or where no cluster answers at the address.
    """

    def __init__(self, address: str = "") -> None:
        try:
            import ray
        except ImportError as error:
            wanted = parameter("workers")
            raise MeasurementError(f"{wanted} ray needs the package ray; pip install 'ckptaudit[ray]'.") from error
        self._ray: Any = ray
        self._joined_before = bool(ray.is_initialized())
        if not self._joined_before:
            self._join(address)

    def resources(self) -> tuple[int, int]:
        """How many CPUs and GPUs there are."""
        found = self._ray.cluster_resources()
        return int(found.get("CPU", 0)), int(found.get("GPU", 0))

    def worker(self, open_work: Open, spec: bytes, *, threads: int, gpu: bool) -> RayWorker:
        """A worker on whichever node has room; with `gpu` it has one to itself."""
        actor = self._ray.remote(**actor_options(threads, gpu=gpu))(Measurer)
        return RayWorker(self._ray, actor.remote(open_work, spec))

    def close(self) -> None:
        """Leave the cluster, unless it was joined by whoever called."""
        if not self._joined_before:
            self._ray.shutdown()

    def _join(self, address: str) -> None:
        quiet = {"logging_level": logging.ERROR, "log_to_driver": False, "include_dashboard": False}
        if address:
            quiet.pop("include_dashboard")
        # A cluster that is started here is nobody's to report on.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            _knock(address)
            self._ray.init(address=address or None, **quiet)
        except Exception as error:  # whatever it is: there is no cluster to work with
            why = printable(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
            raise MeasurementError(
                f"{parameter('workers')} ray{':' + printable(address) if address else ''}: no cluster could be "
                f"joined ({why[:200]}); start one with `ray start --head`, or check the address."
            ) from error


def _knock(address: str) -> None:
    """Raise OSError where nothing listens at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and "/" not in host and port.isascii() and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()


def actor_options(threads: int, *, gpu: bool) -> dict[str, Any]:
    """What an actor asks of its node. Its environment is set before its process loads NumPy."""
    return {
        "num_cpus": threads,
        "num_gpus": 1 if gpu else 0,
        "max_restarts": 0,
        "runtime_env": {"env_vars": threads_environment(threads)},
    }


class Measurer:
    """What runs in an actor."""

    def __init__(self, open_work: Open, spec: bytes) -> None:
        self._refused, self._measure = open_work(spec)

    def start(self) -> bytes:
        """Why nothing can be measured here; empty where it can."""
        return self._refused.encode()

    def measure(self, task: bytes) -> bytes:
        """Measure a task."""
        return self._measure(task)


class RayWorker:
    """An actor, as the crew sees it."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor

    def start(self) -> Future[bytes]:
        """Wait until it runs."""
        return self._future(self._actor.start.remote())

    def submit(self, task: bytes) -> Future[bytes]:
        """Send a task; the answer comes when it is measured."""
        return self._future(self._actor.measure.remote(task))

    def stop(self) -> None:
        """End the actor."""
        self._ray.kill(self._actor, no_restart=True)

    def _future(self, reference: Any) -> Future[bytes]:
        """The answer, with Ray's own errors as those of a lost worker."""
        answer: Future[bytes] = Future()

        def settle(done: Future[bytes]) -> None:
            error = done.exception()
            if error is not None:
                answer.set_exception(WorkerLostError(type(error).__name__))
            else:
                answer.set_result(done.result())

        reference.future().add_done_callback(settle)
        return answer
