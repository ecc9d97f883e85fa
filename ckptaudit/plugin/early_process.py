"""A second process for a mixture of experts, started before torch is loaded here, so that both load it at once.

Two threads of one interpreter wait for each other between their products: small matrices take them longer than a
single thread. Large ones are nearly all product, and gain nothing from another process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from functools import partial
from math import prod
from pathlib import Path

import pytest

from ckptaudit.foreign_files import open_regular
from ckptaudit.measurement.process_workers import end_process, start_process

LEAST_MATRICES = 500
"""Matrices of a base from which on a second process saves more than it takes to start: 3 to 6 ms each, if small."""

SHORT_SIDE = 128
"""Smaller ones are measured many at a time, by few calls: that of `ckptaudit.metrics`, which would load torch."""

MAX_HEADER = 16 * 2**20
"""Bytes of a header that are looked at: those of a hundred thousand tensors, about."""

NVIDIA = Path("/dev/nvidiactl")
"""Where there is a card, it measures, and a process beside it would be of no use."""


def early_process(config: pytest.Config) -> subprocess.Popen[bytes] | None:
    """A process that loads what it takes to measure; None where it would be of no use, or cannot be had.

    It ends with the run at the latest, whatever becomes of that.
    """
    if not _is_of_use(config):
        return None
    try:
        process = start_process(is_quiet=True)
    except OSError:
        return None
    config.add_cleanup(partial(end_process, process))
    return process


def _is_of_use(config: pytest.Config) -> bool:
    spread = config.getoption("audit_workers") or config.getoption("dist", "no") != "no"
    if spread or hasattr(config, "workerinput") or config.getoption("maxfail") or config.option.collectonly:
        return False
    device = config.getoption("audit_device")
    if device != "cpu" and not (device == "auto" and not NVIDIA.exists()):
        return False
    if _cores() < 2 or getattr(sys, "frozen", False) or not sys.executable:
        return False
    return _has_many_matrices(config.getoption("base") or "")


def _cores() -> int:
    """The cores that torch will take."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    return int(named) if named.isascii() and named.isdecimal() else (os.cpu_count() or 1)


def _has_many_matrices(name: str) -> bool:
    """Whether safetensors files under a local path hold as many as that, by their headers."""
    path, count = Path(name), 0
    # Whatever is wrong with a file is told when it is opened, and in better words.
    with suppress(OSError, ValueError, TypeError, AttributeError, RecursionError):
        for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
            count += sum(map(_matrices, _shapes(file)))
            if count >= LEAST_MATRICES:
                return True
    return False


def _shapes(file: Path) -> list[list[int]]:
    with open_regular(file) as content:
        length = int.from_bytes(content.read(8), "little")
        header = json.loads(content.read(length)) if length <= MAX_HEADER else {}
    return [entry.get("shape", []) for entry in header.values()]


def _matrices(shape: list[int]) -> int:
    """How many are stacked in a tensor."""
    return prod(shape[:-2]) if len(shape) >= 2 and min(shape[-2:]) >= SHORT_SIDE else 0
