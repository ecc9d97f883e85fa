"""The decompositions of a few matrices in full, for the page: what the numbers that closed the gate look like."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ckptaudit.checkpoints import TensorHandle
from ckptaudit.errors import CheckpointError
from ckptaudit.judging.verdict import Verdict, times_over
from ckptaudit.linalg.gram import gram_error, tall
from ckptaudit.linalg.leading import spectrum
from ckptaudit.linalg.products import multiply
from ckptaudit.linalg.spectra import numerical_rank, relative_gap
from ckptaudit.linalg.subspaces import principal_angles
from ckptaudit.linalg.symmetric import SMALL
from ckptaudit.metrics import METRICS, MatrixMetric, PairBatch
from ckptaudit.metrics.base_facts import within
from ckptaudit.pairing import AlignedTensor, ModelPair
from ckptaudit.results.records import SpectrumRecord

MOST = 6
"""How many matrices are decomposed in full, over all runs; every run has at least one."""

VALUE_ERROR, ANGLE_ERROR = 1e-4, 1e-4
"""Largest error of a singular value that is drawn, relative, and of a subspace, in radians: thinner than a line."""

SQUARABLE = (1e-100, 1e100)
"""Sizes of entries whose squares float64 holds and sums."""

POINTS = 240
"""How many points of a curve are kept; a screen shows no more."""


@dataclass(frozen=True, slots=True)
class CurveMatrix:
    """One matrix of an aligned weight; `index` counts experts of a stack."""

    name: str
    tensor: AlignedTensor
    index: int


def worst_matrices(verdicts: Iterable[Verdict], pair: ModelPair, *, most: int) -> list[CurveMatrix]:
    """Up to `most` matrices that decided the verdicts farthest beyond their limits, or nearest to them.

    Verdicts about spectra and subspaces come first: theirs are the quantities that the curves explain.
    """
    known = {
        name: CurveMatrix(name, tensor, index)
        for tensor in pair.aligned
        if tensor.is_matrix
        for index, name in enumerate(tensor.matrix_names())
    }
    judged = sorted((v for v in verdicts if v.worst in known and v.value is not None), key=_first_the_worst)
    return [known[name] for name in list(dict.fromkeys(v.worst for v in judged if v.worst))[:most]]


def spectrum_record(run: str, matrix: CurveMatrix, device: torch.device) -> SpectrumRecord | None:
    """Both spectra and the angles between the leading subspaces; None where there is no decomposition.

    In float64: from the Gram matrix of the short side where values are certain to a relative VALUE_ERROR and
    subspaces to ANGLE_ERROR, else decomposed directly. The angles are those of `principal_angle_left_max` and its
    kin: between the top-k singular subspaces of either side, directions beyond the numerical rank left out.
    """
    try:
        base, tuned = _read(matrix, matrix.tensor.base), _read(matrix, matrix.tensor.tuned)
    except CheckpointError:
        return None
    if not (bool(base.isfinite().all()) and bool(tuned.isfinite().all())):
        return None
    k = PairBatch(base, tuned).k
    try:
        before, after = _decomposed(base, device, k), _decomposed(tuned, device, k)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        return None
    left, right = _angles(before.left, after.left), _angles(before.right, after.right)
    kept, shown = _thinned(before.s.shape[1]), _thinned(len(left))
    return SpectrumRecord(
        tuned=run,
        tensor=matrix.name,
        layer=matrix.tensor.place.layer,
        role=matrix.tensor.place.role,
        shape=(base.shape[1], base.shape[2]),
        k=k,
        gap=float(relative_gap(before.s, k)[0]),
        ranks=tuple(i + 1 for i in kept),
        base_singular_values=_picked(before.s[0].tolist(), kept),
        tuned_singular_values=_picked(after.s[0].tolist(), kept),
        angle_ranks=tuple(i + 1 for i in shown),
        left_angles=_picked(left, shown),
        right_angles=_picked(right, shown),
    )


@dataclass(frozen=True, slots=True)
class _Decomposition:
    """Every singular value of one side, and its leading vectors as far as the rank goes."""

    s: Tensor
    left: Tensor
    right: Tensor


def _decomposed(stored: Tensor, device: torch.device, k: int) -> _Decomposition:
    matrix = stored[0].to(device)
    return _by_gram(matrix, k) or _directly(matrix, k)


def _by_gram(matrix: Tensor, k: int) -> _Decomposition | None:
    if min(matrix.shape) < SMALL or not within(float(matrix.abs().amax()), SQUARABLE):
        return None
    found = spectrum(matrix, k)
    if found is None:
        return None
    squares, upright = found.s.square(), tall(matrix)
    error = gram_error(upright.shape[0], upright.shape[1], squares)
    # The subspace errs by at most error / gap radians (Davis and Kahan 1970), a value by error / (2 s).
    if not (float(squares[-1]) * VALUE_ERROR > error and float(squares[k - 1] - squares[k]) * ANGLE_ERROR > error):
        return None
    long: Tensor = torch.linalg.qr(multiply(upright.double(), found.short)).Q
    sides = (found.short, long) if upright is not matrix else (long, found.short)
    return _Decomposition(found.s[None], *(side[None] for side in sides))


def _directly(matrix: Tensor, k: int) -> _Decomposition:
    u, s, vh = torch.linalg.svd(matrix.double()[None], full_matrices=False)
    width = min(k, int(numerical_rank(s, m=matrix.shape[0], n=matrix.shape[1])[0]))
    return _Decomposition(s, u[:, :, :width], vh.mT[:, :, :width])


def _first_the_worst(verdict: Verdict) -> tuple[bool, bool, float]:
    metric = METRICS.get(verdict.metric)
    about_spectra = isinstance(metric, MatrixMetric) and metric.cost == "spectrum"
    assert verdict.value is not None  # the caller has set aside what was not measured
    return (
        verdict.outcome == "passed",
        not about_spectra,
        -times_over(verdict.value, verdict.effective_limit, verdict.sign),
    )


def _read(matrix: CurveMatrix, side: TensorHandle) -> Tensor:
    return side.read().reshape(matrix.tensor.matrix_shape)[matrix.index : matrix.index + 1]


def _angles(before: Tensor, after: Tensor) -> list[float]:
    if not before.shape[2]:
        return []
    if not after.shape[2]:
        return [90.0] * before.shape[2]
    degrees: list[float] = principal_angles(before, after)[0].tolist()
    return degrees


def _thinned(count: int) -> list[int]:
    """Positions to keep: every one of a short curve, else evenly over the logarithm, both ends included."""
    if count <= POINTS:
        return list(range(count))
    return sorted({round(math.exp(math.log(count) * i / (POINTS - 1))) - 1 for i in range(POINTS)})


def _picked(values: Sequence[float], positions: Sequence[int]) -> tuple[float, ...]:
    return tuple(values[i] for i in positions)
