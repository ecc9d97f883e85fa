"""The worker that is this process itself, beside others that are processes of their own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch


class ThreadWorker:
    """A thread that measures, with `threads` threads of torch and BLAS; it cannot be lost by itself."""

    def __init__(self, measure: Callable[[bytes], bytes], threads: int) -> None:
        self._measure, self._before = measure, torch.get_num_threads()
        self._pool = ThreadPoolExecutor(1, "ckptaudit-worker", torch.set_num_threads, (threads,))

    def start(self) -> Future[bytes]:
        """There is nothing to open."""
        return self._pool.submit(bytes)

    def submit(self, task: bytes) -> Future[bytes]:
        """Measure a task."""
        return self._pool.submit(self._measure, task)

    def stop(self) -> None:
        """Wait for the task that is being measured, and begin no other."""
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._before)
