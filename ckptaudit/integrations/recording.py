"""Rows of rollouts written beside the training: by a thread of its own, in files that are complete or not there."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ckptaudit.rollouts.files import numbered
from ckptaudit.rollouts.rows import batches_of
from ckptaudit.rollouts.table import write_table

logger = logging.getLogger(__name__)

WAITING = 4
"""Batches that may wait to be written; a disk that is slower than this makes the training wait."""


class RolloutLog:
    """Writes batches of rows to `folder`, one Parquet file of the canonical table each, in the order given.

    A killed run loses what was waiting and no file that is there. A run that is resumed at an earlier step, or
    begun again, moves the files of the steps that it repeats to `superseded-1`, `superseded-2` and so on in that
    folder. What goes wrong while writing is logged once and ends the recording, never the training. `seconds` is
    the time that the training thread has spent here.
    """

    def __init__(self, folder: str | Path, *, run: str = "", rank: int = 0) -> None:
        self.folder = Path(folder)
        self.run = run or self.folder.name
        self.rank = rank
        self.seconds = 0.0
        self._waiting: queue.Queue[list[dict[str, Any]] | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None
        self._failed = False
        self._files = 0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time within towards `seconds`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start

    def put(self, rows: Sequence[dict[str, Any]]) -> None:
        """Take rows, sorted by step, to be written; returns at once unless WAITING batches wait already."""
        if not rows or self._failed:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="ckptaudit-rollouts", daemon=True)
            self._thread.start()
        self._waiting.put(list(rows))

    def close(self) -> None:
        """Write what is waiting, and end."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
            self._thread = None

    def _write_all(self) -> None:
        while (rows := self._waiting.get()) is not None:
            if self._failed:
                continue
            try:
                self._write(rows)
            except Exception as error:  # whatever it is, hours of training must not be lost to it
                self._failed = True
                logger.warning("rollouts are no longer recorded (%s: %s)", type(error).__name__, error)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        # Files in the order of names are in the order of steps; a resumed run goes on after the steps it has.
        step, rank = int(rows[0]["step"]), f"rank{self.rank:04d}.parquet"
        if not self._files:
            self._set_aside(
                [path for at, path in numbered(self.folder, rf"rollouts-(\d+)-\d+-{rank}") if at >= step]
            )
        path = self.folder / f"rollouts-{step:09d}-{self._files:06d}-{rank}"
        write_table(path, batches_of(rows, path, self.run))
        self._files += 1

    def _set_aside(self, files: Sequence[Path]) -> None:
        """Move what an earlier attempt recorded of the steps that come now: two attempts at a step are no group."""
        if not files:
            return
        numbers = [number for number, _ in numbered(self.folder, r"superseded-(\d{1,9})")]
        place = self.folder / f"superseded-{max(numbers, default=0) + 1}"
        place.mkdir()
        for path in files:
            path.rename(place / path.name)
        logger.warning("%d files of an earlier attempt at these steps are in %s now", len(files), place)
