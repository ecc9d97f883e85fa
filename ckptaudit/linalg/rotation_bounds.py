"""How far an update rotates the base's leading singular subspaces: bounds from what it does to them alone.

All are theorems for the base's exact subspaces, rounding and near-ties of singular values included; the derivation
is in docs/fast-paths.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from ckptaudit.linalg.bounds import GRAM_SLACK, SLACK
from ckptaudit.linalg.gram import gram
from ckptaudit.linalg.leading import CERTAIN, Leading
from ckptaudit.linalg.products import UNIT, empty, multiply
from ckptaudit.linalg.symmetric import eigenvalues

GAP_SLACK = 1.0 + 1e-5
"""Allowance for the base's singular values, right to a relative CERTAIN, in a difference of a tenth of one."""

STRIP = 256
"""Products that are summed at a time where the sum's rounding has to be bounded."""

BLOCK = 512
"""Rows of such a product at a time."""

POWERS = (0.0, 3.0, 15.0)
"""Powers of the Sylvester equation's series at which the images' norms are taken; the logarithms of those between
lie below the chord, those beyond below the last."""

CLEARANCE = 0.01
"""How far below s_k (a share of it) the base's directions are taken along with its top k."""


@dataclass(frozen=True)
class Images:
    """An update applied to the base's leading directions: R = D V and S = D' U, as their Gram matrices.

    `size` bounds norm_F(D); `slack` is, for one column, by how much rounding may have falsified its image,
    so that c columns together are right within `slack` sqrt(c) in norm.
    """

    right: Float64[Tensor, "c c"]
    left: Float64[Tensor, "c c"]
    inside: Float64[Tensor, "c c"]
    """U' D V, its products as long as the short side."""
    short: int
    """The short side."""
    size: float
    slack: float

    def captured(self, k: int) -> float:
        """norm_F(U' D V)^2 over the first k columns."""
        return float(self.inside[:k, :k].square().sum())

    def norms(self, weights: Float64[Tensor, "c"]) -> tuple[float, float]:
        """Bounds on the spectral norms of R diag(w) and S diag(w), over as many columns as there are weights."""
        c, lost = len(weights), self.slack * float(torch.linalg.vector_norm(weights))
        right, left = (_norm(g[:c, :c] * weights * weights[:, None]) + lost for g in (self.right, self.left))
        return right, left

    def lengths(self, count: int) -> tuple[Float64[Tensor, "c"], Float64[Tensor, "c"]]:
        """Bounds on the norms of the first columns of R and of S."""
        right, left = (
            (g.diagonal()[:count].clamp(min=0) * (1 + GRAM_SLACK)).sqrt() + self.slack
            for g in (self.right, self.left)
        )
        return right, left

    def norm_f(self, k: int) -> float:
        """Bound on sqrt(norm_F(R)^2 + norm_F(S)^2) over the first k columns."""
        squares = sum(float(g.diagonal()[:k].sum()) for g in (self.right, self.left))
        return math.sqrt(squares * (1 + GRAM_SLACK)) + self.slack * math.sqrt(2 * k)

    def captured_error(self, k: int) -> float:
        """Bound on the error of `captured`, that of the directions' own rounding left out."""
        lost = 2 * self.slack * math.sqrt(k)
        return lost * (2 * math.sqrt(self.captured(k)) + lost)

    def least(self, count: int) -> float:
        """Lower bound on norm(V) s_count(D) from the first `count` columns, as s_c(D V) <= norm(V) s_c(D)."""
        grams = [g[:count, :count] for g in (self.right, self.left)]
        least = max(float(torch.linalg.eigvalsh(g)[0]) - GRAM_SLACK * float(g.trace()) for g in grams)
        return math.sqrt(max(least, 0.0)) - self.slack * math.sqrt(count)


@dataclass(frozen=True)
class Separation:
    """The base's first `count` >= k directions as computed hold its exact top k up to the sine `tilt`."""

    count: int
    tilt: float


def images(update: Float32[Tensor, "m n"], base: Leading, *, k: int, size: float) -> Images:
    """The images of the base's leading directions under the update: of its top k, and of those close below.

    A float32 product of length l in strips is right within (strip + l / strip) units, relative to the absolute
    values (Higham 2002, section 3.5), and one more for the update's own rounding.
    """
    found = separation(base, k)
    count = max(found.count if found is not None else k, min(k + 1, len(base.s)))
    # D'U as U'D transposed, whose columns are as many as a matrix has: BLAS is a tenth quicker there.
    right, left = _product(update, base.right[:, :count]), _product(base.left[:, :count].mT, update).mT
    # U'D V either way; by the shorter side.
    one, other = (base.left, right) if len(right) <= len(left) else (left, base.right)
    inside = multiply(one[:, :count].mT, other[:, :count]).double()
    return Images(
        right=gram(right),
        left=gram(left),
        inside=inside,
        short=min(update.shape),
        size=size,
        slack=(STRIP + -(-max(update.shape) // STRIP) + 4) * UNIT * (1 + base.skew) * size,
    )


def separation(base: Leading, k: int) -> Separation | None:
    """Directions among which the exact top k are found for certain; None where ties go beyond what was kept.

    With r the residual, the part of the base across the first c computed directions has no singular value above
    s_{c+1} + 2 r where s_c is clear of it (Weyl; Ostrowski for vectors that are orthonormal up to `skew`). What
    the exact top k lack to lie within is then at most r / (s_k - s_{c+1} - 2 r) (Wedin 1972).
    """
    r, last = base.residual, float(base.s[k - 1])
    if not base.skew < CLEARANCE:
        return None
    best: Separation | None = None
    for count in range(k, len(base.s) + 1):
        after, here = base.after(count), float(base.s[count - 1])
        gap = last * (1 - CERTAIN) - after - 2 * r
        if here - after <= 3 * (r + base.skew * here) or gap <= 0:
            continue
        tilt = r * (1 + base.skew) / gap
        best = Separation(count, tilt) if best is None or tilt < best.tilt else best
        if after <= (1 - CLEARANCE) * last:
            break
    return best


def rotation_sine(found: Images, base: Leading, *, k: int, share: float) -> float:
    """Bound on the sine of the angle from the base's top k directions, left or right, to the tuned ones above a
    threshold: those whose singular value exceeds `share` times the base's s_k.

    With W0 V = U S and W0' U = V S, the tuned directions (P, Q) at or below the threshold t satisfy
    P'U S = S1 Q'V - P'D V and Q'V S = S1 P'U - Q'D'U, hence, one put into the other again and again,
    norm(P'U) <= sum_j t^j norm(E_j S^-(j+1)) with E_j = D V for even j and D'U for odd j, and the same for Q'V with
    these exchanged. Each column counts by its own distance to the threshold.
    """
    last = float(base.s[k - 1])
    at_most = found.size / (last * (1 - share)) * GAP_SLACK
    within = separation(base, k)
    if within is None:
        return min(at_most, 1.0)
    series = _series(found, base, k, within.count, share) * (1 + base.skew)
    return min((series + _lost(found, base, k, within, share)) / last * GAP_SLACK, at_most, 1.0)


def rms_rotation_sines(found: Images, base: Leading, *, k: int, share: float) -> tuple[float, float]:
    """Bounds on the root mean square sine from the base's top k directions, left and right, to the same tuned ones.

    The same series, summed column by column: with p = norm(D v), q = norm(D'u) and s the larger of a column's
    singular value and s_k, the left one is at most (s p + t q) / (s^2 - t^2), the right one has p and q exchanged.
    Squared sines of a subspace sum to those of its columns; what the exact directions differ by from the computed
    ones enters as for the largest angle, k columns in Frobenius norm being at most sqrt(k) times the spectral one.
    """
    last = float(base.s[k - 1])
    at_most = found.size / (last * (1 - share)) / math.sqrt(k) * GAP_SLACK
    within = separation(base, k)
    if within is None:
        return min(at_most, 1.0), min(at_most, 1.0)
    doubt = _lost(found, base, k, within, share) / last
    sines = (
        math.sqrt(float(sine.square().sum()) / k) * SLACK * (1 + base.skew) + doubt
        for sine in _column_sines(found, base, k, within.count, share)
    )
    left, right = (min(sine * GAP_SLACK, at_most, 1.0) for sine in sines)
    return left, right


def _column_sines(
    found: Images, base: Leading, k: int, count: int, share: float
) -> tuple[Float64[Tensor, "c"], Float64[Tensor, "c"]]:
    """What of each computed direction, on the left and on the right, may lie below the threshold."""
    last = float(base.s[k - 1])
    s, threshold = base.s[:count].clamp(min=last), share * last
    right, left = found.lengths(count)
    gap = s.square() - threshold**2
    return (s * right + threshold * left) / gap, (s * left + threshold * right) / gap


def _lost(found: Images, base: Leading, k: int, within: Separation, share: float) -> float:
    """What the exact top k add to a bound for the computed directions, times s_k."""
    doubt = _doubt(base, k, within) / float(base.s[k - 1])
    return found.size * (doubt / (1 - share) ** 2 + (within.tilt + 2 * base.skew + doubt) / (1 - share))


def _doubt(base: Leading, k: int, within: Separation) -> float:
    """What the exact top k's coordinates in the computed directions lack to commute with the singular values."""
    return (base.residual + CERTAIN * float(base.s[k - 1])) * (1 + math.sqrt(within.count - k))


def _series(found: Images, base: Leading, k: int, count: int, share: float) -> float:
    """The larger of both sums, times s_k.

    With an image R and W = diag(s_k / s_i), log norm(R W^x) is convex in x (Hadamard's three lines theorem, W^iy
    being unitary), so that between two of POWERS the norms are at most those of a geometric sequence; beyond the
    last, W being at most 1, they do not grow.
    """
    weights = (float(base.s[k - 1]) / base.s[:count]).clamp(max=1.0)
    norms = [found.norms(weights ** (power + 1)) for power in POWERS]
    sums = [0.0, 0.0]
    for at, first in enumerate(POWERS):
        following = POWERS[at + 1] if at + 1 < len(POWERS) else math.inf
        here, there = norms[at], norms[min(at + 1, len(POWERS) - 1)]
        for side, (norm, later) in enumerate(zip(here, there, strict=True)):
            falling = (later / norm) ** (1 / (following - first)) if 0 < later < norm else 1.0
            for parity in (0, 1):
                sums[side ^ parity] += norm * _powers(share, falling, first, following, parity)
    return max(sums) * SLACK


def _powers(share: float, falling: float, first: float, following: float, parity: int) -> float:
    """The sum of share^j falling^(j - first) over all j of one parity, first <= j < following."""
    ratio = share * falling
    start = (first + parity) % 2
    end = following + (following + parity) % 2 - first if following < math.inf else math.inf
    beyond = ratio**end if end < math.inf else 0.0
    return float(share**first * (ratio**start - beyond) / (1 - ratio**2))


def angle_sines(found: Images, base: Leading, *, k: int) -> tuple[float, float]:
    """Bounds on the largest sine between the top-k subspaces, left or right, and on the root mean square of all k.

    Wedin's theorem with the gap s_k(W0) - s_{k+1}(W1), which by Weyl is at least s_k - s_{k+1} - norm_2(D).
    """
    r, last = base.residual, float(base.s[k - 1])
    space = last * (1 - CERTAIN) - base.after(k) - 3 * (r + base.skew * last)
    gap = space - found.size
    if not gap > 0:
        return 1.0, 1.0
    doubt = r * (1 + base.skew) / space + 2 * base.skew
    largest = (max(found.norms(torch.ones_like(base.s[:k]))) + r) / gap * SLACK + doubt
    mean = (found.norm_f(k) + r * math.sqrt(2 * k)) / gap / math.sqrt(k) * SLACK + doubt
    return min(largest, 1.0), min(mean, largest, 1.0)


def hill_floor(found: Images, base: Leading, *, k: int) -> float:
    """Lower bound on the Hill estimate over the top k of s(D).

    ln s_i summed over i <= k is at most k/2 ln(norm_F(D)^2 / k), the mean of logarithms lying below the
    logarithm of the mean; and s_{k+1} is at least what D does to k + 1 orthonormal directions.
    """
    reference = found.least(k + 1) / (1 + base.skew) / SLACK
    if not reference > 0:
        return 0.0
    logs = 0.5 * math.log(found.size**2 / k) - math.log(reference)
    return 1.0 / (max(logs, 1e-6) * (1 + 1e-6) + 1e-9)


def _product(a: Float32[Tensor, "m n"], b: Float32[Tensor, "n c"]) -> Float32[Tensor, "m c"]:
    """A B, no sum of which is longer than a strip or the number of strips."""
    (m, n), c = a.shape, b.shape[1]
    # A block's sum stays near a processor; another device is better served by few calls.
    block = BLOCK if a.device.type == "cpu" else m
    total, part = (empty(rows, c, dtype=torch.float32, device=a.device) for rows in (m, min(m, block)))
    for top in range(0, m, block):
        rows, here = a[top : top + block], total[top : top + block]
        multiply(rows[:, :STRIP], b[:STRIP], out=here)
        for start in range(STRIP, n, STRIP):
            here += multiply(rows[:, start : start + STRIP], b[start : start + STRIP], out=part[: len(rows)])
    return total


def _norm(gram: Float64[Tensor, "c c"]) -> float:
    return math.sqrt(max(float(eigenvalues(gram)[0]), 0.0) + GRAM_SLACK * float(gram.trace()))
