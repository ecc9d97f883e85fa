"""The least that a mode has to do, in bytes and operations, and how long this machine would need for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Shape = tuple[int, int]
Rates = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Work:
    """What cannot be left out: bytes of files, entries of both sides, operations in float32 and in float64."""

    files: int
    entries: int
    float32: float = 0
    float64: float = 0

    def seconds(self, rates: Rates) -> dict[str, float]:
        """Time for each part by itself, at the rates measured; `read` is from files the system holds in memory."""
        # Each entry is read as bf16 and written and read once more as float32.
        moved = self.entries * (2 + 4 + 4)
        return {
            "read": self.files / rates["read"],
            "memory": moved / rates["memory"],
            "multiply": self.float32 / rates["float32"] + self.float64 / rates["float64"],
        }


def least_work(mode: str, shapes: Sequence[Shape], files: int) -> Work:
    """The work of a mode on matrices of these shapes, whatever algorithm does it."""
    entries = 2 * sum(m * n for m, n in shapes)
    base, tuned, following = (sum(map(count, shapes)) for count in (_factors, _spectrum, _top_products))
    if mode.startswith("gate"):
        return Work(files, entries, float32=following, float64=base if "first" in mode else 0)
    if mode.startswith("exact"):
        return Work(files, entries, float32=following, float64=2 * tuned + (base if "first" in mode else 0))
    if mode == "float64":
        return Work(files, entries, float64=2 * base)
    if mode == "modeldelta":
        return Work(files, entries, float32=tuned)
    return Work(files, entries)


def _top_products(shape: Shape) -> float:
    """The update against the base's top k directions on both sides."""
    m, n = shape
    k = min(512, max(1, min(shape) // 8))
    return 4.0 * m * n * k


def _spectrum(shape: Shape) -> float:
    """All singular values: the Gram matrix, one triangle of it, and its reduction to tridiagonal form."""
    r, long = min(shape), max(shape)
    return float(long * r**2) + 4 / 3 * r**3


def _factors(shape: Shape) -> float:
    """Singular values and vectors: the eigenvectors turned back, and one product for the other side."""
    r, long = min(shape), max(shape)
    return _spectrum(shape) + 2.0 * r**3 + 2.0 * long * r**2
