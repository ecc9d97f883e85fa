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
"""Directions are kept down to this share of s_k, where steps are to be taken from them: those that the tuned matrix
may mix with its top."""

NARROW_BAND = 0.97
"""The same where nothing but bounds rests on them, which look at gaps down to 0.99 s_k."""

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


def leading(weight: Shaped[Tensor, "m n"], k: int, *, band: float = BAND) -> Leading | None:
    """The first k + 1 triplets and those down to `band` s_k; None where fewer of them stand above rounding.

    From the Gram matrix of the short side where that is accurate enough, else from a decomposition of the
    matrix itself.
    """
    matrix = tall(weight)
    found = _by_gram(matrix, k, band) or _directly(matrix, k, band)
    if found is None or matrix is weight:
        return found
    return replace(found, left=found.right, right=found.left)


def _by_gram(matrix: Shaped[Tensor, "m n"], k: int, band: float) -> Leading | None:
    (m, n), product = matrix.shape, gram(matrix)
    found = Eigen(product)
    doubt = gram_error(m, n, found.values)
    count = _count(found.values.clamp(min=0).sqrt(), k, band, least=math.sqrt(doubt / CERTAIN))
    if count is None:
        return None
    following = math.sqrt(max(float(found.values[count]), 0.0) + doubt) if count < n else 0.0
    vectors = found.vectors(count).float()
    return _stored(matrix, roots(found.values, doubt), vectors, following, _Known(product, doubt))


def _directly(matrix: Shaped[Tensor, "m n"], k: int, band: float) -> Leading | None:
    m, n = matrix.shape
    _, s, vh = torch.linalg.svd(matrix.double().contiguous(), full_matrices=False)
    doubt = m * EPS * float(s[0])
    count = _count(s, k, band, least=doubt / CERTAIN)
    if count is None:
        return None
    following = float(s[count]) + doubt if count < n else 0.0
    every = SingularValues(s, math.sqrt(n) * doubt)
    return _stored(matrix, every, vh[:count].mT.float(), following)


def _count(s: Float64[Tensor, "r"], k: int, band: float, *, least: float) -> int | None:
    """How many triplets to keep: k + 1 and the band, as far as `least` lets them be relied on."""
    needed = min(k + 1, len(s))
    if not float(s[needed - 1]) > least:
        return None
    wanted = int((s > band * s[k - 1]).sum()) + GUARD
    return max(needed, min(wanted, MOST * k, int((s > least).sum())))


@dataclass(frozen=True)
class _Known:
    """W'W as computed, and a bound on its error in spectral norm."""

    gram: Float64[Tensor, "n n"]
    error: float


def _stored(
    matrix: Shaped[Tensor, "m n"],
    every: SingularValues,
    right: Float32[Tensor, "n c"],
    following: float,
    known: _Known | None = None,
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
        if known is None:
            back += multiply(rows.mT, u)
        add_gram(u, inner)
        add_gram(images.sub_(u * s), rounded)
    lost, inner = mirrored(rounded), mirrored(inner)
    behind = _norm(gram(back.sub_(v * s))) if known is None else _behind(known, v, s, lost)
    skew = max(_distance_to_identity(g) for g in (inner, gram(v)))
    residual = max(_norm(lost), behind) + _rounding(m, n, s)
    return Leading(s, left, right.contiguous(), residual, skew + m * EPS * c, following, every)


def _behind(
    known: _Known, v: Float64[Tensor, "n c"], s: Float64[Tensor, "c"], lost: Float64[Tensor, "c c"]
) -> float:
    """Bound on norm(W'U - V S) from W'W, without another product with W.

    With E = W V - U S, of which `lost` is the Gram matrix, W'U - V S = (W'W V - V S^2) S^-1 - W'E S^-1.
    """
    c, n = len(s), len(known.gram)
    least = float(s[-1])
    residual = multiply(known.gram, v).sub_(v * s.square()).div_(s)
    product_error = n * EPS * float(torch.linalg.matrix_norm(known.gram)) * math.sqrt(c) * 2
    first = float(s[0]) * (1 + CERTAIN)
    return _norm(gram(residual)) + (known.error + product_error) / least + first * _norm(lost / s / s[:, None])


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
