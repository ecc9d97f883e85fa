"""How far an update moves all singular values together: Mirsky's bound, once the leading subspaces are turned back.

Mirsky (1960) holds for every choice of bases: norm(s(W1) - s(W0)) <= norm_F(Q'W1 P - W0) for orthogonal Q and P.
What of an update only turns the leading subspaces can be turned back first. docs/fast-paths.md derives the bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from ckptaudit.linalg.bounds import GRAM_SLACK, SLACK
from ckptaudit.linalg.leading import CERTAIN, Leading
from ckptaudit.linalg.products import UNIT
from ckptaudit.linalg.rotation_bounds import Images, separation


def turned_back(found: Images, base: Leading, *, k: int) -> float:
    """Upper bound on norm(s(W0 + D) - s(W0)), never above norm_F(D).

    Let U, V be the base's first c directions, t the norm of what lies across them, A = (I - U U')D V and
    B = (I - V V')D'U. With Q = exp(X), P = exp(Y) from the skew-symmetric X = A S^-1 U' - U S^-1 A' and
    Y = B S^-1 V' - V S^-1 B', to first order Q'(W0 + D)P - W0 has W_across b_i / s_i in the place of a_i and the
    same of a_i in the place of b_i:

        norm_F(D)^2 - sum_i (1 - t^2 / s_i^2) (norm(a_i)^2 + norm(b_i)^2)

    is its square, at most. The rest of the exponential series is at most (x + y) (norm_F(X W1) + norm_F(W1 Y)) / 2,
    with x and y the norms of X and Y, and (x + y) norm_F(D) for W0 in place of W1.
    """
    within = separation(base, k)
    if within is None:
        return found.size
    seen = _Seen.of(found, base, within.count)
    return found.size if seen is None else min(found.size, seen.bound(found))


@dataclass(frozen=True)
class _Seen:
    """What the base's first c directions show of the update, both ways; everything raised or lowered by its doubt.

    `s` is at most the base's singular values, `across` at least the norm of what of the base lies across, `off` at
    least what the base lacks to be block-diagonal in these directions, in spectral norm.
    """

    s: Float64[Tensor, "c"]
    across: float
    off: float
    least: Float64[Tensor, "c"]
    """norm(a_i)^2 + norm(b_i)^2, at least."""
    most: tuple[Float64[Tensor, "c"], Float64[Tensor, "c"]]
    """norm(a_i)^2 and norm(b_i)^2, at most."""
    turns: tuple[float, float]
    """The norms of X and Y, at most."""

    @classmethod
    def of(cls, found: Images, base: Leading, count: int) -> _Seen | None:
        """None where the directions as computed are not clear of what follows."""
        first = float(base.s[0]) * (1 + CERTAIN)
        # From vectors that are orthonormal up to `skew` to the nearest that are.
        off = base.residual + 2 * base.skew * first
        s = base.s[:count] * (1 - CERTAIN)
        across = base.after(count) + off
        if not float(s[-1]) - off > across:
            return None
        doubt = found.slack + base.skew * found.size
        longest = [lengths.cpu() + base.skew * found.size for lengths in found.lengths(count)]
        # A row or a column of U'D V takes part in the error of all images. A float32 product of length l errs by l
        # units of its absolute values.
        rounding = (found.short + 2) * UNIT * max(float(of_side.max()) for of_side in longest)
        lost = math.sqrt(count) * (rounding + 2 * doubt)
        inside, least = found.inside[:count, :count].square().cpu(), torch.zeros(count, dtype=torch.float64)
        for side, of_side in enumerate(longest):
            shortest = ((of_side - doubt) * (1 - 2 * GRAM_SLACK) - doubt).clamp(min=0)
            least += (shortest.square() - (inside.sum(side).sqrt() + lost).square()).clamp(min=0)
        spread = base.skew * found.size / float(s[-1])
        x, y = (norm + spread for norm in found.norms(1 / s))
        return cls(s.cpu(), across, off, least, (longest[0].square(), longest[1].square()), (x, y))

    def bound(self, found: Images) -> float:
        """The bound itself."""
        kept = (self.across / self.s).square()
        first = math.sqrt(max(0.0, found.size**2 - float((self.least * (1 - kept)).sum())))
        angles = sum(math.sqrt(float((most / self.s.square()).sum())) for most in self.most)
        moved = sum(math.sqrt(float((most * (1 + kept)).sum())) for most in self.most) + 2 * self.off * angles
        turn = sum(self.turns)
        second = turn * ((moved + turn * found.size) / 2 + found.size)
        return (first + second + 3 * self.off * angles) * SLACK
