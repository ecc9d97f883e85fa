"""What is timed: our own runs, and what people use today. Each is a command that any shell could start."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

BOUNDED = "spectral-drift or update-size or update-sparsity or finite or aligned or same-shapes or actually-changed"
"""The checks that bounds and counts settle, as `-k` selects them."""

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
    slower it may be). `slow` ones run in fewer rounds, and at the smallest and the largest size alone.
    """

    name: str
    command: Callable[[Place], list[str]]
    prepare: Callable[[Place], None] = lambda _: None
    slow: bool = False
    faster: dict[str, float] = field(default_factory=dict)


def modes(python: Path, modeldelta: Path) -> list[Mode]:
    """All of them, in the order in which a round runs them."""
    gate, exact = _gate(python, "gate"), _gate(python, "exact", "--audit-exact")
    return [
        Mode("gate, first time", gate, _forget("gate"), faster={"modeldelta": 3, "float64": 8}),
        Mode("gate, cached", gate, faster={"modeldelta": 8, "float64": 25}),
        Mode("exact, first time", exact, _forget("exact"), faster={"modeldelta": 2, "float64": 6}),
        Mode("exact, cached", exact, faster={"modeldelta": 4, "float64": 12}),
        Mode("checks that bounds settle", _gate(python, "gate", "-k", BOUNDED), faster={"cast": 0.5}),
        Mode("cast", _script(python, CAST)),
        Mode("modeldelta", _modeldelta(modeldelta), slow=True),
        Mode("float64", _script(python, FLOAT64), slow=True),
    ]


def _gate(python: Path, cache: str, *options: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        pair = [f"--base={place.base}", f"--tuned={place.tuned}", f"--audit-cache={place.cache(cache)}"]
        # -P keeps the current folder off the import path, as the pytest command does.
        return [str(python), "-P", "-m", "pytest", *pair, "--audit-json=audit.json", *options]

    return command


def _forget(cache: str) -> Callable[[Place], None]:
    return lambda place: shutil.rmtree(place.cache(cache), ignore_errors=True)


def _script(python: Path, code: str) -> Callable[[Place], list[str]]:
    return lambda place: [str(python), "-c", code, str(place.base), str(place.tuned)]


def _modeldelta(program: Path) -> Callable[[Place], list[str]]:
    return lambda place: [str(program), str(place.base), str(place.tuned), "--output=modeldelta.json"]
