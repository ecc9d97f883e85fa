"""What is timed: our own runs, and what people use today. Each is a command that any shell could start."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

BOUNDED = "spectral-drift or update-size or update-sparsity or finite or aligned or same-shapes or actually-changed"
"""The checks that bounds and counts settle, as `-k` selects them."""

MODELDELTA = "modeldelta==0.4.4"

IMPORT_TORCH = "import torch"

CAST = """
import sys
from safetensors import safe_open
for path in sys.argv[1:]:
    with safe_open(path + "/model.safetensors", "pt") as side:
        for name in side.keys():
            side.get_tensor(name).float()
"""

FLOAT64 = """
import sys, torch
from safetensors import safe_open
for path in sys.argv[1:]:
    with safe_open(path + "/model.safetensors", "pt") as side:
        for name in side.keys():
            weight = side.get_tensor(name)
            if weight.dim() == 2:
                torch.linalg.svd(weight.double(), full_matrices=False)
"""


@dataclass(frozen=True)
class Place:
    """The pair, and where a run may leave its files."""

    base: Path
    tuned: Path
    scratch: Path

    def cache(self, of: str) -> Path:
        """The cache of the runs of one kind: each kind's first run starts from an empty one."""
        return self.scratch / f"cache-{of}"


@dataclass(frozen=True)
class Mode:
    """A command and what it stands for.

    `faster` are the floors: how many times faster than a comparator it has to be (below one: how many times
    slower it may be). `slow` ones run in fewer rounds.
    """

    name: str
    command: Callable[[Place], list[str]]
    prepare: Callable[[Place], None] = lambda _: None
    slow: bool = False
    faster: dict[str, float] = field(default_factory=dict)


def modes(build: Path) -> list[Mode]:
    """All of them, in the order in which a round runs them."""
    return [
        Mode("gate, first time", _gate("gate"), _forget("gate"), faster={"modeldelta": 3, "float64": 8}),
        Mode("gate, cached", _gate("gate"), faster={"modeldelta": 8, "float64": 25}),
        Mode(
            "exact, first time",
            _gate("exact", "--audit-exact"),
            _forget("exact"),
            faster={"modeldelta": 2, "float64": 6},
        ),
        Mode("exact, cached", _gate("exact", "--audit-exact"), faster={"modeldelta": 4, "float64": 12}),
        Mode("checks that bounds settle", _gate("gate", "-k", BOUNDED), faster={"cast": 0.5}),
        Mode("cast", _python(CAST)),
        Mode("modeldelta", _modeldelta(build), slow=True),
        Mode("float64", _python(FLOAT64), slow=True),
    ]


def _gate(cache: str, *options: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        pair = [f"--base={place.base}", f"--tuned={place.tuned}", f"--audit-cache={place.cache(cache)}"]
        # -P keeps the current folder off the import path, as the pytest command does.
        return [sys.executable, "-P", "-m", "pytest", *pair, "--audit-json=audit.json", *options]

    return command


def _forget(cache: str) -> Callable[[Place], None]:
    return lambda place: shutil.rmtree(place.cache(cache), ignore_errors=True)


def _python(code: str) -> Callable[[Place], list[str]]:
    return lambda place: [sys.executable, "-c", code, str(place.base), str(place.tuned)]


def _modeldelta(build: Path) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        return [str(_installed(build)), str(place.base), str(place.tuned), "--output=modeldelta.json"]

    return command


def _installed(build: Path) -> Path:
    """The program, in an environment of its own with the same torch; made when first asked for."""
    home = build / "modeldelta"
    program = home / "bin" / "modeldelta"
    if not program.is_file():
        venv.create(home, with_pip=True)
        constraints = Path(__file__).parent.parent / "constraints.txt"
        pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "-c", constraints, MODELDELTA]
        subprocess.run(pip, check=True)
    return program
