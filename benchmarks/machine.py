"""How fast this machine reads, moves and multiplies: what every mode is held against. Prints JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

SIZE = 2048


def rates(file: Path) -> dict[str, float]:
    """Bytes and operations per second, the best of several trials each."""
    wide, deep = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE, dtype=torch.float64)
    long = torch.ones(2**26)
    operations = 2 * SIZE**3
    return {
        "disk": _best(lambda: _read(file), before=lambda: _drop(file), trials=2) * file.stat().st_size,
        "read": _best(lambda: _read(file), trials=3) * file.stat().st_size,
        "memory": _best(lambda: long.sum()) * long.nbytes,
        "float32": _best(lambda: wide @ wide) * operations,
        "float64": _best(lambda: deep @ deep) * operations,
    }


def _best(work: Callable[[], object], before: Callable[[], None] = lambda: None, trials: int = 8) -> float:
    times = []
    for _ in range(trials):
        before()
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1 / min(times)


def _read(file: Path) -> None:
    buffer = bytearray(2**24)
    with file.open("rb", buffering=0) as opened:
        while opened.readinto(buffer):
            pass


def _drop(file: Path) -> None:
    """Ask the system to forget the file's pages, so that the next read comes from the disk."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    print(json.dumps(rates(Path(sys.argv[1]))))
