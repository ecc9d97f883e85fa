"""Environments of their own for what is timed, as a user would have them.

The developers' environment holds plugins that every pytest run loads, and this repository's root checks shapes at
run time: neither belongs into a measurement.
"""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODELDELTA = "modeldelta==0.4.4"


def gate_python(build: Path) -> Path:
    """The interpreter of an environment with this tree's package as it is now, and its dependencies."""
    home = _environment(build / "ckptaudit", str(ROOT))
    _pip(home, "--force-reinstall", "--no-deps", str(ROOT))
    return home / "bin" / "python"


def modeldelta(build: Path) -> Path:
    """The program of the release that the floors speak of, with the same torch."""
    return _environment(build / "modeldelta", MODELDELTA) / "bin" / "modeldelta"


def _environment(home: Path, package: str) -> Path:
    ready = home / "ready"
    if not ready.is_file():
        venv.create(home, with_pip=True, clear=True)
        _pip(home, package)
        ready.touch()
    return home


def _pip(home: Path, *arguments: str) -> None:
    pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt"]
    subprocess.run([*pip, *arguments], check=True)
