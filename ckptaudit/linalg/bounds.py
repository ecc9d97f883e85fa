"""Theorems that settle a question without a decomposition of the tuned side; true bounds, rounding included."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from ckptaudit.linalg.leading import ROWS, Leading, gram
from ckptaudit.linalg.products import UNIT, multiply

SLACK = 1.0 + 1e-9
"""Allowance for the float64 arithmetic that a bound is put together with."""

GRAM_SLACK = 1e-9
"""Allowance for an eigenvalue of a float64 Gram matrix, as a share of its trace: (rows + 10 columns) eps."""

SLACK_ROW = 1.0 + 1e-4
"""Allowance for the length of rows that were made orthonormal in float32."""

GAP_SLACK = 1.0 + 1e-5
"""Allowance for the base's singular values, right to a relative CERTAIN / 2, in a difference of a tenth of one."""


def rounding_margin(m: int, n: int) -> float:
    """Relative allowance for evaluating a norm of m n float64 squares: (m n + 8) eps.

    Any order of summation keeps within m n units of relative error on a sum of squares; the root
    halves it and the quotient of two norms doubles it again.
    """
    return (m * n + 8) * torch.finfo(torch.float64).eps


def mirsky(
    update_norm: Float[Tensor, "batch"], base_norm: Float[Tensor, "batch"], *, m: int, n: int
) -> Float[Tensor, "batch"]:
    """Upper bound on the normalized spectral shift: norm(s(W1) - s(W0)) <= norm_F(W1 - W0)   (Mirsky 1960).

    A zero base reads 1 if anything changed, as the shift itself does.
    """
    margin = 1.0 + rounding_margin(m, n) + 2 * UNIT
    ratio = update_norm / torch.where(base_norm > 0, base_norm, torch.ones_like(base_norm))
    return torch.where(base_norm > 0, ratio * margin, (update_norm > 0).double())


@dataclass(frozen=True)
class Images:
    """An update applied to the base's leading directions: R = D V and S = D' U, as their Gram matrices.

    `size` bounds norm_F(D); `slack` is, for one column, by how much rounding may have falsified its image,
    so that c columns together are right within `slack` sqrt(c) in norm.
    """

    right: Float64[Tensor, "c c"]
    left: Float64[Tensor, "c c"]
    captured: float
    """norm_F(U' D V)^2 over the first k columns."""
    size: float
    slack: float

    def norm(self, a: int, b: int) -> float:
        """Bound on the spectral norm of either image over columns a to b."""
        parts = [g[a:b, a:b] for g in (self.right, self.left)]
        largest = max(float(torch.linalg.eigvalsh(g)[-1]) + GRAM_SLACK * float(g.trace()) for g in parts)
        return math.sqrt(largest) + self.slack * math.sqrt(b - a)

    def norm_f(self, k: int) -> float:
        """Bound on sqrt(norm_F(R)^2 + norm_F(S)^2) over the first k columns."""
        squares = sum(float(g.diagonal()[:k].sum()) for g in (self.right, self.left))
        return math.sqrt(squares * (1 + GRAM_SLACK)) + self.slack * math.sqrt(2 * k)

    def least(self) -> float:
        """Lower bound on s_c(D), c the number of columns: s_c(D) >= s_c(D V), as V shortens no vector."""
        grams = (self.right, self.left)
        least = max(float(torch.linalg.eigvalsh(g)[0]) - GRAM_SLACK * float(g.trace()) for g in grams)
        return math.sqrt(max(least, 0.0)) - self.slack * math.sqrt(len(self.right))


def images(update: Float32[Tensor, "m n"], base: Leading, *, k: int, size: float) -> Images:
    """The images of the base's leading directions under the update.

    A float32 product of length l is right within l units, relative to the absolute values (Higham 2002,
    section 3.5), and the vectors themselves are blurred: hence ((l + 2) UNIT + blur) norm_F(D) for a unit column.
    """
    right, left = multiply(update, base.right), multiply(update.mT, base.left)
    inside = multiply(base.left[:, :k].mT, right[:, :k]).double()
    return Images(
        right=gram(right),
        left=gram(left),
        captured=float(inside.square().sum()),
        size=size,
        slack=((max(update.shape) + 2) * UNIT + base.blur) * size,
    )


def turned(found: Images, base: Leading, *, k: int, share: float) -> float:
    """Bound on the sine of the angle from the base's top k directions, left or right, to the tuned ones above a
    threshold: those whose singular value exceeds `share` times the base's s_k.

    Wedin (1972), in residual form. With W0 V = U S and W0' U = V S, the tuned directions (P, Q) at or below the
    threshold t satisfy S1 Q'V - P'U S = P'D V and S1 P'U - Q'V S = Q'D'U, hence for columns with singular
    values of at least s: (s - t) max(norm(P'U), norm(Q'V)) <= max(norm(D V), norm(D' U)). Columns are taken in
    one block or four, each with its own distance to the threshold, whichever says more.
    """
    threshold = share * float(base.s[k - 1])
    best = min(_over_blocks(found, base, k, parts, threshold) for parts in (1, 4) if parts <= k)
    # Where the base's own subspace is uncertain, only the norm of the whole update holds for all of its rotations.
    whole = found.size / (float(base.s[k - 1]) - threshold) * GAP_SLACK
    return min(best + uncertainty(base, k), whole, 1.0)


def _over_blocks(found: Images, base: Leading, k: int, parts: int, threshold: float) -> float:
    edges = [k * i // parts for i in range(parts + 1)]
    total = 0.0
    for a, b in pairwise(edges):
        gap = float(base.s[b - 1]) - threshold
        total += ((found.norm(a, b) + base.error) / gap) ** 2
    return math.sqrt(total) * GAP_SLACK


def turned_rms(found: Images, base: Leading, *, k: int, share: float) -> tuple[float, float]:
    """Bounds on the root mean square sine from the base's top k directions, left and right, to the same tuned ones.

    The same residuals, column by column and with each column's own singular value s: with r = norm(D v) and
    q = norm(D' u), the left part satisfies s y <= t x + r and the right one s x <= t y + q, hence
    y <= (s r + t q) / (s^2 - t^2), and x likewise. The squared sines of a subspace sum to those of its columns.
    """
    s = base.s[:k]
    threshold = share * float(s[-1])
    gap = (s.square() - threshold**2) / GAP_SLACK
    right, left = (
        (g.diagonal()[:k].clamp(min=0) * (1 + GRAM_SLACK)).sqrt() + found.slack + base.error
        for g in (found.right, found.left)
    )
    doubt = uncertainty(base, k)
    rest = found.size / (float(s[-1]) - threshold) / math.sqrt(k) * GAP_SLACK
    sines = ((s * near + threshold * far) / gap for near, far in ((right, left), (left, right)))
    rms = (math.sqrt(float(sine.square().sum()) / k) * SLACK + doubt for sine in sines)
    on_left, on_right = (min(value, rest, 1.0) for value in rms)
    return on_left, on_right


def angle_sines(found: Images, base: Leading, *, k: int) -> tuple[float, float]:
    """Bounds on the largest sine between the top-k subspaces, left or right, and on the root mean square of all k.

    Wedin again, with the gap s_k(W0) - s_{k+1}(W1), which by Weyl is at least s_k - s_{k+1} - norm_2(D).
    """
    following = float(base.s[k]) if k < len(base.s) else 0.0
    gap = (float(base.s[k - 1]) - following) * (1 - 1e-6) - found.size - 2 * base.error
    if not gap > 0:
        return 1.0, 1.0
    doubt = uncertainty(base, k)
    largest = (found.norm(0, k) + base.error) / gap * SLACK + doubt
    mean = (found.norm_f(k) + base.error * math.sqrt(2 * k)) / gap / math.sqrt(k) * SLACK + doubt
    return min(largest, 1.0), min(mean, largest, 1.0)


def uncertainty(base: Leading, k: int) -> float:
    """Bound on the sine between the base's true top-k subspaces and those that were computed."""
    following = float(base.s[k]) if k < len(base.s) else 0.0
    gap = (float(base.s[k - 1]) - following) * (1 - 1e-6) - 2 * base.error
    return min(1.0, base.error / gap) if gap > 0 else 1.0


def degrees(sine: float) -> float:
    """The angle of a sine, rounded up."""
    return min(90.0, math.degrees(math.asin(min(1.0, sine))) * SLACK)


def mean_degrees(largest: float, rms: float) -> float:
    """Bound on a mean angle from bounds on the largest sine and the root mean square: asin(x) <= pi/2 x."""
    return min(degrees(largest), 90.0 * rms * SLACK)


def hill_floor(found: Images, *, k: int) -> float:
    """Lower bound on the Hill estimate over the top k of s(D).

    ln s_i summed over i <= k is at most k/2 ln(norm_F(D)^2 / k), the mean of logarithms lying below the
    logarithm of the mean; and s_{k+1} is at least what D does to k + 1 orthonormal directions.
    """
    reference = found.least()
    if not reference > 0:
        return 0.0
    logs = 0.5 * math.log(found.size**2 / k) - math.log(reference)
    return 1.0 / (max(logs, 1e-6) * (1 + 1e-6) + 1e-9)


def norm_floor(update: Float32[Tensor, "m n"], *, size: float, rounds: int = 2) -> float:
    """Lower bound on norm_2(D) by block power iteration: norm(D x) <= norm_2(D) for any unit x it ends at."""
    width = min(8, *update.shape)
    # As rows: a few rows times a matrix run at the speed of memory, a matrix times a few columns does not.
    x = torch.randn(width, update.shape[1], generator=torch.Generator().manual_seed(0)).to(update.device)
    for _ in range(rounds):
        grown = torch.zeros_like(x)
        for d in _strips(update):
            grown += (x @ d.mT) @ d
        x = torch.linalg.qr(grown.mT).Q.mT.contiguous()
    inner = torch.zeros(width, width, dtype=torch.float64, device=update.device)
    for d in _strips(update):
        y = (x @ d.mT).double()
        inner += y @ y.mT
    best = torch.linalg.eigh(inner).eigenvectors[:, -1]
    norm = math.sqrt(max(float(best @ (inner @ best)), 0.0))
    length = float(torch.linalg.vector_norm(best @ x.double()))
    # Each row of x is unit to rounding, and its image right within (n + 2) units of norm_F(D); `best` mixes them.
    rounding = (update.shape[1] + 2) * UNIT * size * SLACK_ROW * float(best.abs().sum())
    return max(0.0, (norm * (1 - GRAM_SLACK) - rounding) / length / SLACK) if length > 0 else 0.0


def _strips(update: Float32[Tensor, "m n"]) -> Iterator[Float32[Tensor, "_ n"]]:
    for start in range(0, len(update), ROWS):
        yield update[start : start + ROWS]
