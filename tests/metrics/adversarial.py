"""Pairs of matrices that bounds and fast paths find hard: ties, cliffs, rank one, every kind and size of update."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Matrix = NDArray[np.float64]

KINDS = ["random", "heavy", "flat", "tied", "cluster at k", "falling off", "rank one", "one row apart"]
UPDATES = ["noise", "low rank", "principal", "aligned", "towards the threshold", "one entry", "zero"]


def orthonormal(n: int, r: int, random: np.random.Generator) -> Matrix:
    return np.asarray(np.linalg.qr(random.standard_normal((n, r)))[0])


def base_of(kind: str, shape: tuple[int, int], random: np.random.Generator) -> Matrix:
    r = min(shape)
    k = max(1, r // 8)
    spectra = {
        "heavy": np.arange(1, r + 1) ** -0.5,
        "flat": np.ones(r),
        "tied": np.where(np.arange(r) < 2 * k, 1.0, 0.2),
        "cluster at k": np.where(np.arange(r) < k, 1 + 1e-6, 1.0) * np.where(np.arange(r) < 2 * k, 1, 0.3),
        "falling off": np.logspace(0, -9, r),
        "rank one": np.eye(r)[0],
        "random": np.sort(random.random(r))[::-1] + 1e-3,
    }
    u, v = orthonormal(shape[0], r, random), orthonormal(shape[1], r, random)
    if kind == "one row apart":
        u = np.eye(*shape)[:, :r]
        return np.asarray(u @ np.diag(spectra["heavy"]) @ v.T)
    return np.asarray((u * spectra[kind]) @ v.T)


def update_of(kind: str, base: Matrix, random: np.random.Generator) -> Matrix:
    m, n = base.shape
    u, s, vh = np.linalg.svd(base, full_matrices=False)
    k = max(1, min(m, n) // 8)
    below = min(int((s > 0.9 * s[k - 1]).sum()), len(s) - 1)
    made = {
        "noise": lambda: random.standard_normal((m, n)),
        "low rank": lambda: np.outer(random.standard_normal(m), random.standard_normal(n)),
        "principal": lambda: u[:, :2] @ random.standard_normal((2, 2)) @ vh[:2],
        "aligned": lambda: base.copy(),
        # What the rotation's bound is worst for: the k-th direction towards the first one below the threshold.
        "towards the threshold": lambda: np.outer(u[:, below], vh[k - 1]) + np.outer(u[:, k - 1], vh[below]),
        "one entry": lambda: np.eye(1, m * n, int(random.integers(m * n))).reshape(m, n),
        "zero": lambda: np.zeros((m, n)),
    }[kind]()
    norm = np.linalg.norm(made)
    return np.asarray(made * (np.linalg.norm(base) / norm if norm else 0.0))


def stored(w0: Matrix, w1: Matrix, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    base, tuned = (torch.from_numpy(w).to(dtype) for w in (w0, w1))
    return base, tuned
