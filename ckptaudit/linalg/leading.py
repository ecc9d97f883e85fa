"""The leading singular triplets of one matrix, with a bound on how far they are from being exact."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float32, Float64, Shaped
from torch import Tensor

from ckptaudit.linalg.gram import ROWS, SingularValues, gram, gram_error, roots, rows_of, tall
from ckptaudit.linalg.products import EPS, empty, multiply
from ckptaudit.linalg.symmetric import Eigen, add_gram, eigenvalues, mirrored

CERTAIN = 1e-7
"""Largest relative error of the square of the last singular value kept, for the Gram matrix to be relied on."""

BAND = 0.85
"""Directions are kept down to this share of s_k: those that the tuned matrix may mix with its top."""

GUARD = 8
"""Directions kept below the band."""

MOST = 2
"""At most so many times k directions are kept; the band of a flatter spectrum is cut off."""


@dataclass(frozen=True)
class Leading:
    """Triplets with `W V = U diag(s)` and `W' U = V diag(s)`, each up to `residual` in spectral norm, as stored.

    `skew` bounds norm(U'U - I) and norm(V'V - I), `following` the singular value after the last that is kept;
    0 where all are. Each `s` is within a relative CERTAIN of a singular value of W, in order; `every` has all of
    them, the last perhaps less accurate.
    """

    s: Float64[Tensor, "c"]
    left: Float32[Tensor, "m c"]
    right: Float32[Tensor, "n c"]
    residual: float
    skew: float
    following: float
    every: SingularValues

    def after(self, count: int) -> float:
        """Upper bound on the singular value that follows the first `count`."""
        return float(self.s[count]) * (1 + CERTAIN) if count < len(self.s) else self.following


@dataclass(frozen=True)
class Spectrum:
    """All singular values of a matrix, descending, and what it takes to find those of the tuned side.

    That is the Gram matrix W'W of the tall matrix, and leading vectors of its short side.
    """

    s: Float64[Tensor, "r"]
    short: Float64[Tensor, "r c"]
    gram: Float64[Tensor, "r r"]


def spectrum(weight: Shaped[Tensor, "m n"], count: int) -> Spectrum | None:
    """All singular values, by the Gram matrix of the short side; None where the first `count` drown in rounding."""
    matrix = tall(weight)
    m, n = matrix.shape
    product = gram(matrix)
    found = Eigen(product)
    if not float(found.values[count - 1]) * CERTAIN > gram_error(m, n, found.values):
        return None
    return Spectrum(found.values.clamp(min=0).sqrt(), found.vectors(count), product)


def truncated(weight: Shaped[Tensor, "m n"], short: Float32[Tensor, "r c"]) -> Float32[Tensor, "m n"]:
    """The truncated SVD of rank c, from the leading vectors of the short side: W V V', or U U'W."""
    m, n = weight.shape
    found = empty(m, n, dtype=torch.float32, device=weight.device)
    inside = torch.zeros(short.shape[1], n, dtype=torch.float32, device=weight.device)
    for start in range(0, m, ROWS):
        rows, end = weight[start : start + ROWS].float(), start + ROWS
        if m >= n:
            found[start:end] = multiply(multiply(rows, short), short.mT)
        else:
            inside += multiply(short[start:end].mT, rows)
    return found if m >= n else multiply(short, inside)


def leading(weight: Shaped[Tensor, "m n"], k: int) -> Leading | None:
    """The first k + 1 triplets and the band below; None where fewer of them stand above rounding.

    From the Gram matrix of the short side where that is accurate enough, else from a decomposition of the
    matrix itself.
    """
    matrix = tall(weight)
    found = _by_gram(matrix, k) or _directly(matrix, k)
    if found is None or matrix is weight:
        return found
    return replace(found, left=found.right, right=found.left)


def _by_gram(matrix: Shaped[Tensor, "m n"], k: int) -> Leading | None:
    m, n = matrix.shape
    found = Eigen(gram(matrix))
    doubt = gram_error(m, n, found.values)
    count = _count(found.values.clamp(min=0).sqrt(), k, least=math.sqrt(doubt / CERTAIN))
    if count is None:
        return None
    following = math.sqrt(max(float(found.values[count]), 0.0) + doubt) if count < n else 0.0
    return _stored(matrix, roots(found.values, doubt), found.vectors(count).float(), following)


def _directly(matrix: Shaped[Tensor, "m n"], k: int) -> Leading | None:
    m, n = matrix.shape
    _, s, vh = torch.linalg.svd(matrix.double().contiguous(), full_matrices=False)
    doubt = m * EPS * float(s[0])
    count = _count(s, k, least=doubt / CERTAIN)
    if count is None:
        return None
    following = float(s[count]) + doubt if count < n else 0.0
    every = SingularValues(s, math.sqrt(n) * doubt)
    return _stored(matrix, every, vh[:count].mT.float(), following)


def _count(s: Float64[Tensor, "r"], k: int, *, least: float) -> int | None:
    """How many triplets to keep: k + 1 and the band, as far as `least` lets them be relied on."""
    needed = min(k + 1, len(s))
    if not float(s[needed - 1]) > least:
        return None
    band = int((s > BAND * s[k - 1]).sum()) + GUARD
    return max(needed, min(band, MOST * k, int((s > least).sum())))


def _stored(
    matrix: Shaped[Tensor, "m n"], every: SingularValues, right: Float32[Tensor, "n c"], following: float
) -> Leading:
    """Triplets of float32 vectors from those of the short side; their residuals are measured in float64."""
    (m, n), c, v = matrix.shape, right.shape[1], right.double()
    s = every.s[:c]
    left = empty(m, c, dtype=torch.float32, device=matrix.device)
    rounded, inner = (torch.zeros(c, c, dtype=torch.float64, device=matrix.device) for _ in range(2))
    back = torch.zeros(n, c, dtype=torch.float64, device=matrix.device)
    for start, rows in rows_of(matrix):
        images = multiply(rows, v)
        left[start : start + ROWS] = images / s
        u = left[start : start + ROWS].double()
        back += multiply(rows.mT, u)
        add_gram(u, inner)
        add_gram(images.sub_(u * s), rounded)
    residual = max(_norm(mirrored(rounded)), _norm(gram(back.sub_(v * s))))
    skew = max(_distance_to_identity(g) for g in (mirrored(inner), gram(v)))
    return Leading(s, left, right.contiguous(), residual + _rounding(m, n, s), skew + m * EPS * c, following, every)


def _norm(gram: Float64[Tensor, "c c"]) -> float:
    """Bound on the spectral norm of the matrix of this Gram matrix."""
    return math.sqrt(max(float(eigenvalues(gram)[0]), 0.0) + 1e-9 * float(gram.trace()))


def _distance_to_identity(inner: Float64[Tensor, "c c"]) -> float:
    """Bound on norm(G - I)."""
    inner = inner.clone()
    inner.diagonal().sub_(1)
    return float(torch.linalg.matrix_norm(inner))


def _rounding(m: int, n: int, s: Float64[Tensor, "c"]) -> float:
    """Allowance for the float64 products behind the residuals: norm_F(W) is at most sqrt(n) s_1."""
    return (m + n) * EPS * math.sqrt(n * len(s)) * float(s[0])
