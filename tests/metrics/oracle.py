"""The definitions once more, one matrix at a time, with NumPy and SciPy in float64 and nothing of the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import subspace_angles

Matrix = NDArray[np.float64]


def k_of(w: Matrix) -> int:
    return min(512, max(1, min(w.shape) // 8))


def changed(w0: Matrix, w1: Matrix) -> NDArray[np.bool_]:
    before, after = (torch.from_numpy(w).bfloat16().double().numpy() for w in (w0, w1))
    return np.abs(after - before) > 1e-3 * np.maximum(np.abs(before), np.abs(after))


def singular(w: Matrix) -> Matrix:
    return np.asarray(np.linalg.svd(w, compute_uv=False))


def angles(w0: Matrix, w1: Matrix, side: str) -> Matrix:
    k = k_of(w0)
    (u0, _, v0), (u1, _, v1) = (np.linalg.svd(w, full_matrices=False) for w in (w0, w1))
    pair = (u0[:, :k], u1[:, :k]) if side == "left" else (v0[:k].T, v1[:k].T)
    return np.degrees(subspace_angles(*pair))


def overlap(values: Matrix, marks: NDArray[np.bool_]) -> float:
    largest = np.argsort(-values.ravel(), kind="stable")[: values.size // 2]
    return float(marks.ravel()[largest].sum() / marks.sum())


def reconstruction(w0: Matrix) -> Matrix:
    rank = min(64, max(1, min(w0.shape) // 8))
    u, s, v = np.linalg.svd(w0, full_matrices=False)
    return np.abs((u[:, :rank] * s[:rank]) @ v[:rank])


def off_principal(w0: Matrix, w1: Matrix) -> float:
    k, d = k_of(w0), w1 - w0
    u, _, v = np.linalg.svd(w0, full_matrices=False)
    return float(1 - np.linalg.norm(u[:, :k].T @ d @ v[:k].T) ** 2 / np.linalg.norm(d) ** 2)


def hill(w0: Matrix, w1: Matrix) -> float:
    k, s = k_of(w0), singular(w1 - w0)
    return float(k / np.log(s[:k] / s[k]).sum())


def evenness(w0: Matrix, w1: Matrix) -> float:
    """From the singular values alone: sqrt(sum (r s_i^2 / sum s^2 - 1)^2 / r)."""
    squares = singular(w1 - w0) ** 2
    return float(np.sqrt(np.mean((squares / squares.mean() - 1) ** 2)))


def similarities(w0: Matrix, w1: Matrix, side: str) -> Matrix:
    (u0, _, v0), (u1, _, v1) = (np.linalg.svd(w, full_matrices=False) for w in (w0, w1))
    known, new = (u0.T, u1.T) if side == "left" else (v0, v1)
    return np.array([max(abs(float(x @ y)) for x in known) for y in new[:10]])


def scaling_share(w0: Matrix, w1: Matrix) -> float:
    k = k_of(w0)
    u, _, v = np.linalg.svd(w0, full_matrices=False)
    block = u[:, :k].T @ (w1 - w0) @ v[:k].T
    return float((np.diag(block) ** 2).sum() / (block**2).sum())


def trailing(w0: Matrix, w1: Matrix) -> float:
    k = k_of(w0)
    (u0, _, v0), (u1, _, v1) = (np.linalg.svd(w, full_matrices=False) for w in (w0, w1))
    both = [subspace_angles(u0[:, -k:], u1[:, -k:]), subspace_angles(v0[-k:].T, v1[-k:].T)]
    return float(np.degrees(np.arcsin(np.sqrt(np.mean(np.sin(np.concatenate(both)) ** 2)))))


def gram_distance(w: Matrix) -> Matrix:
    return np.asarray((w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T) - np.eye(min(w.shape)))


def float32_roundings(r: int) -> float:
    return float(2 * 2.0**-24 * np.sqrt(r) + 2.0**-48 * r + 2 * 2.0**-24 * np.sqrt(r) ** 3)


ORACLE: dict[str, Callable[[Matrix, Matrix], float | np.number[Any]]] = {
    "update_sparsity": lambda a, b: 1 - changed(a, b).mean(),
    "changed_entries": lambda a, b: changed(a, b).sum(),
    "differing_entries": lambda a, b: (a != b).sum(),
    "relative_update_norm": lambda a, b: np.linalg.norm(b - a) / np.linalg.norm(a),
    "nonfinite_entries": lambda a, b: (~np.isfinite(b)).sum(),
    "base_nonfinite_entries": lambda a, b: (~np.isfinite(a)).sum(),
    "largest_row_change": lambda a, b: np.linalg.norm(b - a, axis=1).max() / np.median(np.linalg.norm(a, axis=1)),
    "normalized_spectral_shift": lambda a, b: (
        np.linalg.norm(singular(b) - singular(a)) / np.linalg.norm(singular(a))
    ),
    "principal_angle_left_max": lambda a, b: angles(a, b, "left").max(),
    "principal_angle_left_mean": lambda a, b: angles(a, b, "left").mean(),
    "principal_angle_right_max": lambda a, b: angles(a, b, "right").max(),
    "principal_angle_right_mean": lambda a, b: angles(a, b, "right").mean(),
    "principal_mask_overlap": lambda a, b: overlap(reconstruction(a), changed(a, b)),
    "low_magnitude_overlap": lambda a, b: overlap(-np.abs(a), changed(a, b)),
    "off_principal_energy": off_principal,
    "off_principal_energy_ratio": lambda a, b: off_principal(a, b) / (1 - k_of(a) ** 2 / a.size),
    "update_spectral_norm": lambda a, b: np.linalg.norm(b - a, 2),
    "update_stable_rank": lambda a, b: np.linalg.norm(b - a) ** 2 / np.linalg.norm(b - a, 2) ** 2,
    "update_hill_alpha": hill,
    "relative_update_spectral_norm": lambda a, b: np.linalg.norm(b - a, 2) / np.linalg.norm(a, 2),
    "update_semi_orthogonality_defect": evenness,
    "orthogonality_defect": lambda a, b: np.linalg.norm(gram_distance(b)),
    "orthogonality_defect_in_roundings": lambda a, b: (
        np.linalg.norm(gram_distance(b)) / float32_roundings(min(b.shape))
    ),
    "inner_product_distortion": lambda a, b: np.linalg.norm(b.T @ b - np.eye(b.shape[1]), 2),
    "intruder_dimensions_left": lambda a, b: (similarities(a, b, "left") < 0.5).sum(),
    "intruder_dimensions_right": lambda a, b: (similarities(a, b, "right") < 0.5).sum(),
    "least_similar_direction": lambda a, b: min(similarities(a, b, side).min() for side in ("left", "right")),
    "principal_scaling_share": scaling_share,
    "trailing_rotation": trailing,
    "principal_gap": lambda a, b: 1 - singular(a)[k_of(a)] / singular(a)[k_of(a) - 1],
}
