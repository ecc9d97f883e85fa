"""Importing what an audit needs, without looking for garbage in it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """What is made in here lives as long as the process: it is exempt from garbage collection, now and later.

    torch brings some hundred thousand objects along. Every full collection of the run would look them all
    over, and so do a dozen while they are being made: 0.3 s of an audit that takes a few.
    """
    if not gc.isenabled():
        yield
        return
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
