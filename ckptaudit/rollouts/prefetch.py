"""Reading ahead: the next batches are decoded while the last ones are being measured."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

Item = TypeVar("Item")

AHEAD = 2
_END = object()


def read_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The items in order, up to AHEAD of them made beforehand by another thread. An error in it is raised here."""
    waiting: queue.Queue[object] = queue.Queue(AHEAD)
    stopped = threading.Event()
    thread = threading.Thread(
        target=_fill, args=(items, waiting, stopped), name="ckptaudit-read-ahead", daemon=True
    )
    thread.start()
    try:
        while (item := waiting.get()) is not _END:
            if isinstance(item, _Raised):
                raise item.error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def _fill(items: Iterator[Item], waiting: queue.Queue[object], stopped: threading.Event) -> None:
    try:
        for item in items:
            if not _put(waiting, item, stopped):
                return
        _put(waiting, _END, stopped)
    except BaseException as error:  # it belongs to whoever asked for the item
        _put(waiting, _Raised(error), stopped)


def _put(waiting: queue.Queue[object], item: object, stopped: threading.Event) -> bool:
    while not stopped.is_set():
        try:
            waiting.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False
