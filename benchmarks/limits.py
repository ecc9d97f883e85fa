"""The least that a mode has to do, in bytes and operations, and how long this machine would need for it."""

from __future__ import annotations

import sys
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
    """The work of a mode on matrices of these shapes, by the methods used here; for others by what they compute."""
    entries = 2 * sum(m * n for m, n in shapes)
    first = "first" in mode
    if mode.startswith("gate"):
        images = sum(map(_images, shapes))
        return Work(files, entries, images * (1.5 if first else 1), sum(map(_leading, shapes)) if first else 0)
    if mode.startswith("exact"):
        # What the update does to the Gram matrix, and its own Gram matrix; then the eigenvalues of either side.
        float32 = sum(3 * _gram(shape) + _reduced(shape) for shape in shapes)
        tuned = sum(_reduced(shape) + _transformed_back(shape) for shape in shapes)
        return Work(files, entries, float32, tuned + (sum(map(_leading, shapes)) if first else 0))
    if mode == "float64":
        return Work(files, entries, float64=2 * sum(map(_factors, shapes)))
    if mode == "modeldelta":
        return Work(files, entries, float32=sum(map(_spectrum, shapes)))
    return Work(files, entries)


def changed_share(base: str, tuned: str) -> float:
    """The share of stored entries that differ, over all matrices of two safetensors files."""
    import torch
    from safetensors import safe_open

    differing, entries = 0, 0
    with safe_open(base, "pt") as before, safe_open(tuned, "pt") as after:
        for name in before.keys():  # noqa: SIM118  # a file, not a mapping
            weight = before.get_tensor(name)
            if weight.ndim == 2:
                differing += int(torch.count_nonzero(weight != after.get_tensor(name)))
                entries += weight.numel()
    return differing / entries


def _top(shape: Shape) -> int:
    return min(512, max(1, min(shape) // 8))


def _images(shape: Shape) -> float:
    """The update against the base's top k directions on both sides."""
    m, n = shape
    return 4.0 * m * n * _top(shape)


def _gram(shape: Shape) -> float:
    """One triangle of the short side's Gram matrix."""
    return float(max(shape) * min(shape) ** 2)


def _reduced(shape: Shape) -> float:
    """A symmetric matrix of the short side brought to tridiagonal form."""
    return 4 / 3 * min(shape) ** 3


def _transformed_back(shape: Shape) -> float:
    """The top k eigenvectors of the tridiagonal form transformed into those of the matrix."""
    return 2.0 * min(shape) ** 2 * _top(shape)


def _spectrum(shape: Shape) -> float:
    """All singular values."""
    return _gram(shape) + _reduced(shape)


def _leading(shape: Shape) -> float:
    """All singular values and the top k vectors of the short side."""
    return _spectrum(shape) + _transformed_back(shape)


def _factors(shape: Shape) -> float:
    """Singular values and vectors: all eigenvectors transformed back, and one product for the other side."""
    r, long = min(shape), max(shape)
    return _spectrum(shape) + 2.0 * r**3 + 2.0 * long * r**2


if __name__ == "__main__":
    print(changed_share(*sys.argv[1:]))
