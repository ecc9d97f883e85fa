"""Workers as processes of this machine, spoken to over pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import IO

from ckptaudit.measurement.crew import WorkerLostError

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""What NumPy's and torch's libraries read when they are loaded, and never later."""

MAX_MESSAGE = 2**32
SIZE = 8

PROGRAM = "ckptaudit.pipeline.worker"
"""What a worker runs. It is imported in that process alone."""

RUN = """
import json, runpy, sys
path, program = sys.argv[1:]
sys.path[:], sys.argv[:] = json.loads(path), [program]
runpy.run_module(program, run_name="__main__")
"""
"""Runs a module as a program that finds the same modules as this process."""


def start_process(
    environment: Mapping[str, str] | None = None, *, program: str = PROGRAM, is_quiet: bool = False
) -> subprocess.Popen[bytes]:
    """A Python process whose `program`, a module, speaks over the pipes of its standard input and output.

    A quiet one prints nothing and does not hear what interrupts this process: whoever starts it ends it.
    Raises OSError.
    """
    return subprocess.Popen(
        [sys.executable, "-P", "-c", RUN, json.dumps([str(path) for path in sys.path]), program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if is_quiet else None,
        env={**os.environ, **(environment or {})},
        start_new_session=is_quiet,
    )


def end_process(process: subprocess.Popen[bytes]) -> None:
    """End a process that was started here, and close its pipes."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # a message that nobody reads any more
                pipe.close()


class ProcessWorker:
    """A process that was started by `start_process`."""

    def __init__(self, process: subprocess.Popen[bytes], spec: bytes) -> None:
        self._spec, self._process = spec, process
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ckptaudit-worker")

    @property
    def process_id(self) -> int:
        """The number that the system knows it by."""
        return self._process.pid

    def start(self) -> Future[bytes]:
        """Send what is to be opened."""
        return self.submit(self._spec)

    def submit(self, task: bytes) -> Future[bytes]:
        """Send a task; the answer comes when it is measured."""
        return self._thread.submit(self._exchange, task)

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        # Its thread reads to the end of the pipe, which may be closed only then.
        self._thread.shutdown(wait=True, cancel_futures=True)
        end_process(self._process)

    def _exchange(self, message: bytes) -> bytes:
        assert self._process.stdin is not None  # both are pipes
        assert self._process.stdout is not None
        try:
            send(self._process.stdin, message)
            answer = receive(self._process.stdout)
        except (OSError, ValueError) as error:
            raise WorkerLostError(str(error)) from error
        if answer is None:
            raise WorkerLostError("its process ended")
        return answer


def threads_environment(threads: int) -> dict[str, str]:
    """The environment in which a process loads its libraries with that many threads."""
    return dict.fromkeys(THREADS, str(threads))


def send(pipe: IO[bytes], message: bytes) -> None:
    """Write a message behind its length. Raises OSError."""
    pipe.write(len(message).to_bytes(SIZE, "little") + message)
    pipe.flush()


def receive(pipe: IO[bytes]) -> bytes | None:
    """Read a message; None where there is no other, or only a part. Raises ValueError for an absurd length."""
    length = int.from_bytes(head := pipe.read(SIZE), "little")
    if len(head) < SIZE:
        return None
    if length > MAX_MESSAGE:
        raise ValueError(f"a message of {length:,} bytes")
    message = pipe.read(length)
    return message if len(message) == length else None
