"""A second process for a large pair, started before torch is loaded here, so that both load it at once."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from ckptaudit.measurement.process_workers import end_process, start_process

MODULE = "ckptaudit.pipeline.worker"

LEAST_BYTES = 512 * 2**20
"""Size of a base from which on a second process saves more time than both take to load their libraries."""

NVIDIA = Path("/dev/nvidiactl")
"""Where there is a card, it measures, and a process beside it would be of no use."""


def early_process(config: pytest.Config) -> subprocess.Popen[bytes] | None:
    """A process that loads what it takes to measure; None where it would be of no use, or cannot be had.

    It ends with the run at the latest, whatever becomes of that.
    """
    if not _is_of_use(config):
        return None
    try:
        process = start_process(MODULE, is_quiet=True)
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
    return _size(config.getoption("base") or "") >= LEAST_BYTES


def _cores() -> int:
    """The cores that torch will take."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    return int(named) if named.isascii() and named.isdecimal() else (os.cpu_count() or 1)


def _size(name: str) -> int:
    """Bytes of a file, or of those that lie in a folder; 0 for what is neither."""
    with suppress(OSError, ValueError):
        path = Path(name)
        return sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]) if file.is_file())
    return 0
