"""What a part of `on_gpu` found so far: figures with units, each written as soon as it is there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch


@dataclass
class Run:
    """One part's run: what was asked for, and what was found so far."""

    file: Path
    scratch: Path
    device: str
    seconds: float
    quick: bool
    start: float = field(default_factory=time.monotonic)
    facts: dict[str, object] = field(default_factory=dict)
    figures: dict[str, dict[str, object]] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds left to it."""
        return self.seconds - (time.monotonic() - self.start)

    def fact(self, name: str, value: object) -> None:
        """Keep something that is no measurement."""
        self.facts[name] = value
        self._write()

    def figure(self, name: str, value: float, unit: str, **more: object) -> None:
        """Keep a number with its unit."""
        self.figures[name] = {"value": value, "unit": unit, **more}
        self._write()

    def synchronize(self) -> None:
        """Wait until the device has done what it was given."""
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize(self.device)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Keep the seconds that something takes."""
        self.synchronize()
        start = time.perf_counter()
        yield
        self.synchronize()
        self.figure(name, time.perf_counter() - start, "s")

    def seconds_of(self, name: str) -> float:
        """Those kept under a name."""
        value = self.figures[name]["value"]
        assert isinstance(value, float)
        return value

    def _write(self) -> None:
        aside = self.file.with_suffix(".part")
        aside.write_text(json.dumps({"facts": self.facts, "figures": self.figures}), encoding="utf-8")
        aside.replace(self.file)


def seconds_for(run: Run, work: Callable[[], object]) -> float:
    """Seconds that something takes, the device's share included."""
    run.synchronize()
    start = time.perf_counter()
    work()
    run.synchronize()
    return time.perf_counter() - start
