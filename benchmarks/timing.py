"""One command as a complete process: wall clock, processor time and peak memory, by the system's account."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile


@dataclass(frozen=True, slots=True)
class Run:
    """What a finished process took: seconds, bytes, exit code; and how busy the machine was before it began."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    code: int
    load: float


def timed(command: Sequence[str], *, folder: Path, codes: Sequence[int] = (0,)) -> Run:
    """Run a command to its end. Another code than `codes` ends the benchmark: no failure is timed.

    The peak is that of the largest process of the command. The kernel starts it from the memory of the process
    that launched it, so whoever calls this must stay small: no torch in here.
    """
    load = os.getloadavg()[0]
    with TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, env=_environment())
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = code = os.waitstatus_to_exitcode(status)
        if code not in codes:
            output.seek(0)
            sys.exit(f"{' '.join(command)}\nended with {code}:\n{output.read().decode(errors='replace')[-4000:]}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, code, load)


def _environment() -> dict[str, str]:
    """Ours, less what would keep Python from its compiled files: modules are not compiled again at every start."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
