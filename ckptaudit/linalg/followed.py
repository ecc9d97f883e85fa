"""Singular values and subspaces of W0 + D, followed from those of W0: the update is small and known exactly.

Everything here is for tall matrices, W0 = U S V' with all of S and V known, and works on the tuned Gram matrix
in the base's directions, V'(W0 + D)'(W0 + D)V = S^2 + C. Only C is computed, from D, in float32: its error is
relative to the update, not to the weights. docs/fast-paths.md derives each step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Float64, Int, Shaped
from torch import Tensor

from ckptaudit.linalg.parts import cached_property
from ckptaudit.linalg.products import multiply
from ckptaudit.linalg.symmetric import add_gram, eigenvalues, mirrored

NEXT_TERM = 5e-3
"""Largest share of a spectral shift that the terms left out may be estimated at."""

LAST_TERM = 2e-2
"""Largest third-order share at which the series may end with it."""

SAMPLE = 64
"""Columns for which third-order terms are computed: so many of those that mix most, and so many of all."""

STEEPEST = 0.5
"""Largest entry of a subspace's slopes up to which it counts as followed."""

SHIFT_ERROR = 5e-3
"""Largest error of a spectral shift, relative, that rounding may cause."""

VALUE_ERROR = 2e-4
"""Largest relative error of the square of a singular value of the update."""

UNIT = 2.0**-24

ANGLE_ERROR = 1e-4
"""Largest error in radians that rounding may cause in an angle on the left: six thousandths of a degree."""

STEPS = 16
CONVERGED = 1e-5
ACCEPTED = 1e-4
"""Relative size of the last correction to a subspace: where to stop, and what is still good enough."""

ROWS = 1024
STRIP = 64
"""Rows at a time: for products, and for passes that are to stay in the processor's cache."""


def cross_product(base: Shaped[Tensor, "m r"], update: Float32[Tensor, "m r"]) -> Float32[Tensor, "r r"]:
    """(W0 + D/2)'D: with its transpose, what D adds to the Gram matrix W0'W0."""
    product = torch.zeros(base.shape[1], base.shape[1], dtype=torch.float32, device=base.device)
    for start in range(0, base.shape[0], ROWS):
        d = update[start : start + ROWS]
        product.addmm_(torch.add(base[start : start + ROWS].float(), d, alpha=0.5).mT, d)
    return product


def own_product(update: Float32[Tensor, "m r"]) -> Float32[Tensor, "r r"]:
    """D'D."""
    r = update.shape[1]
    product = torch.zeros(r, r, dtype=torch.float32, device=update.device)
    add_gram(update, product)
    return mirrored(product)


@dataclass(frozen=True)
class Planes:
    """Gram matrices of the tangents from the base's top-l subspaces to the tuned ones, in the base's directions."""

    left: Float64[Tensor, "l l"]
    right: Float64[Tensor, "l l"]


class Followed:
    """The tuned matrix seen from the base. What cannot be followed reliably is None."""

    def __init__(
        self,
        s: Float64[Tensor, "r"],
        v: Float32[Tensor, "r r"],
        *,
        cross: Float32[Tensor, "r r"],
        own: Float32[Tensor, "r r"],
    ) -> None:
        self.s, self.v, self._own = s, v, own
        self._cross = multiply(v.mT, multiply(cross, v))

    @cached_property
    def change(self) -> Float32[Tensor, "r r"]:
        """C, the change of the Gram matrix."""
        return self._cross + self._cross.mT

    @cached_property
    def _gaps(self) -> Float32[Tensor, "r r"]:
        """Differences of the first-order squares, row minus column."""
        squares = self.s.square() + self.change.diagonal().double()
        gaps = torch.empty_like(self.change)
        for start in range(0, len(gaps), STRIP):
            gaps[start : start + STRIP] = squares[start : start + STRIP, None] - squares[None, :]
        return gaps

    @cached_property
    def _off(self) -> Float32[Tensor, "r r"]:
        off = self.change.clone()
        off.diagonal().zero_()
        return off

    @cached_property
    def _mixing(self) -> Float32[Tensor, "r r"]:
        """Tangents of the angles that diagonalize each pair of directions by itself: C_ij / gap, 1 for a tie."""
        mixing = torch.empty_like(self._off)
        # By strips that stay in the processor's cache.
        for start in range(0, len(mixing), STRIP):
            off, gaps = (matrix[start : start + STRIP] for matrix in (self._off, self._gaps))
            root = gaps.square().addcmul_(off, off, value=4).sqrt_()
            sum_ = torch.copysign(root, gaps).add_(gaps)
            torch.div(2 * off, sum_.where(root > 0, 1.0), out=mixing[start : start + STRIP])
        return mixing

    @cached_property
    def tuned_squares(self) -> Float64[Tensor, "r"]:
        """Squares of the tuned matrix's singular values, descending.

        To second order, each pair of directions solved exactly; with the third-order terms where they matter; and
        from all of S^2 + C where they are no small part of the shift.
        """
        second = (self._off * self._mixing).sum(dim=1, dtype=torch.float64)
        squares = self.s.square() + self.change.diagonal().double() + second
        third, fourth, moved = self._third(), self._fourth(second), self._moved(_descending(squares))
        if third + fourth <= NEXT_TERM * moved:
            return _descending(squares)
        if third <= LAST_TERM * moved and fourth <= NEXT_TERM * moved:
            more = (self._mixing * (self._off @ self._mixing)).sum(dim=0, dtype=torch.float64)
            return _descending(squares + more)
        whole = self.change.double()
        whole.diagonal().add_(self.s.square())
        return eigenvalues(whole).clamp(min=0)

    def shift(self) -> float:
        """norm(s(W0 + D) - s(W0))."""
        return self._moved(self.tuned_squares)

    def shift_error(self, error: float) -> float:
        """Three times what an error of C, given by its norm_F and spread evenly, is expected to do to the shift."""
        spread = 3 * error / math.sqrt(len(self.s))
        return spread * float(torch.linalg.vector_norm(0.5 / self.s.clamp_min(1e-300)))

    def _moved(self, squares: Float64[Tensor, "r"]) -> float:
        # As a quotient: the difference of two roots would lose what the difference of the squares still has.
        total = (squares.sqrt() + self.s).clamp_min(1e-300)
        return float(torch.linalg.vector_norm((squares - self.s.square()) / total))

    def _third(self) -> float:
        """Estimate of the norm of the third-order terms of the singular values, x_i' C x_i / (2 s_i).

        Computed for the columns that mix most, and for an even sample that stands for the rest.
        """
        r = len(self.s)
        worst = self._mixing.square().sum(dim=0).topk(min(r, SAMPLE)).indices
        sample = torch.arange(0, r, max(1, r // SAMPLE), device=self.s.device)
        squares = [self._third_squares(columns) for columns in (worst, sample)]
        return math.sqrt(squares[0] + squares[1] * r / len(sample))

    def _fourth(self, second: Float64[Tensor, "r"]) -> float:
        """Estimate of the norm of the fourth-order terms: the second, times the squared mixing of a direction.

        Its strongest partner is left out, since each pair of directions is solved exactly. The third-order
        terms can vanish where these do not: an update of a single entry is an example.
        """
        mixed = self._mixing.square()
        beyond = (mixed.sum(dim=0) - mixed.amax(dim=0)).double()
        return float(torch.linalg.vector_norm(second * beyond / (2 * self.s).clamp_min(1e-300)))

    def _third_squares(self, columns: Int[Tensor, "_"]) -> float:
        x = self._mixing[:, columns]
        terms = (x * (self._off @ x)).sum(dim=0).double() / (2 * self.s[columns]).clamp_min(1e-300)
        return float(terms.square().sum())

    def coupling(self, size: int) -> float:
        """norm_F(C21), which turns the top `size` directions."""
        return float(torch.linalg.matrix_norm(self._off[size:, :size]))

    def planes(self, k: int, size: int) -> tuple[Planes, Planes] | None:
        """How the top-k and the top `size` subspaces turned, size >= k; None where no iteration finds them."""
        if size >= len(self.s):
            return None
        cross = self._off[size:, :size]
        outer = _slopes(
            cross, self._off[size:, size:], self._off[:size, :size], cross.mT, self._gaps[:size, size:].mT
        )
        if outer is None:
            return None
        images, moved = self._images(outer, size)
        # On the left, what stays across is a difference of squares as large as the images of D.
        lost = 4 * UNIT * float(torch.linalg.matrix_norm(images, 2))
        if not math.sqrt(lost) <= ANGLE_ERROR * float(self.s[size - 1]):
            return None
        wide = self._planes(outer, images, moved)
        within = self._within(outer, k, size) if size > k else outer[:0, :k]
        if within is None:
            return None
        # V [I; Y] times [I; Z] spans the top k within the top `size`.
        inner = torch.cat([within, outer[:, :k] + outer[:, k:] @ within])
        turn = torch.cat([torch.eye(k, dtype=within.dtype, device=within.device), within]).double()
        return self._planes(inner, turn.mT @ images @ turn, moved @ turn), wide

    def _within(self, outer: Float32[Tensor, "q l"], k: int, size: int) -> Float32[Tensor, "p k"] | None:
        """The slopes of the top k within the top `size`, on which the Gram matrix acts as A11 + C12 Y."""
        action = self._off[:size, :size] + self._off[:size, size:] @ outer
        bends = action.diagonal().clone()
        action.diagonal().zero_()
        gaps = self._gaps[:k, k:size].mT + bends[:k] - bends[k:, None]
        return _slopes(action[k:, :k], action[k:, k:], action[:k, :k], action[:k, k:], gaps)

    def _images(
        self, y: Float32[Tensor, "q l"], size: int
    ) -> tuple[Float64[Tensor, "l l"], Float64[Tensor, "r l"]]:
        """(D V [I; Y])'(D V [I; Y]) and V'W0'D V [I; Y]."""
        v = self.v[:, :size] + multiply(self.v[:, size:], y)
        images = multiply(self._own, v)
        crossed = self._cross[:, :size] + multiply(self._cross[:, size:], y) - 0.5 * multiply(self.v.mT, images)
        return multiply(v.mT, images).double(), crossed.double()

    def _planes(
        self, slopes: Float32[Tensor, "q l"], images: Float64[Tensor, "l l"], moved: Float64[Tensor, "r l"]
    ) -> Planes:
        """Tangents on both sides. On the left, W1 V [I; Y] is split along U and across it by Gram matrices."""
        y, size = slopes.double(), slopes.shape[1]
        s, rest = self.s[:size], self.s[size:]
        inside = moved[:size] / s[:, None]
        stretched = y * rest[:, None]
        mixed = y.mT @ moved[size:]
        across = stretched.mT @ stretched + mixed + mixed.mT + images - inside.mT @ inside
        along = torch.diag(s) + inside
        left = torch.linalg.solve(along.mT, torch.linalg.solve(along.mT, across).mT)
        return Planes(left=0.5 * (left + left.mT), right=y.mT @ y)

    def captured(self, size: int) -> float:
        """norm_F(U'D V)^2 over the top `size` directions of both sides."""
        v = self.v[:, :size]
        block = (self._cross[:size, :size] - 0.5 * (v.mT @ (self._own @ v))).double()
        return float((block / self.s[:size, None]).square().sum())


def angles(tangents: Float64[Tensor, "l l"], count: int) -> Float64[Tensor, "c"]:
    """Angles in degrees, ascending, from the first `count` base directions to the tuned top-l subspace.

    With T'T the Gram matrix of the tangents, the squared sines are the eigenvalues of the leading block of
    T'T (I + T'T)^-1.
    """
    eye = torch.eye(len(tangents), dtype=tangents.dtype, device=tangents.device)
    sines = torch.linalg.solve(eye + tangents, tangents)[:count, :count]
    values = torch.linalg.eigvalsh(0.5 * (sines + sines.mT)).clamp(0.0, 1.0)
    return torch.rad2deg(torch.asin(values.sqrt()))


def _descending(squares: Float64[Tensor, "r"]) -> Float64[Tensor, "r"]:
    return squares.clamp(min=0).sort(descending=True).values


def _slopes(
    lower: Float32[Tensor, "q l"],
    outer: Float32[Tensor, "q q"],
    inner: Float32[Tensor, "l l"],
    upper: Float32[Tensor, "l q"],
    gaps: Float32[Tensor, "q l"],
) -> Float32[Tensor, "q l"] | None:
    """Y with span [I; Y] invariant: the Riccati equation A21 + A22 Y = Y (A11 + A12 Y), by fixed point.

    The diagonals of A11 and A22 are in `gaps`, column minus row.
    """
    if not float(gaps.amin()) > 0:
        return None
    y = lower / gaps
    step, length = math.inf, 0.0
    for _ in range(STEPS):
        following = (lower + multiply(outer, y)).sub_(multiply(y, inner + multiply(upper, y))).div_(gaps)
        step, length = (float(torch.linalg.matrix_norm(w)) for w in (following - y, following))
        y = following
        if not step > CONVERGED * length:
            break
    return y if step <= ACCEPTED * length and float(y.abs().amax()) <= STEEPEST else None


def update_values(own: Float32[Tensor, "r r"], *, trusted: int) -> Float64[Tensor, "r"] | None:
    """Singular values of D, descending, from D'D; None where the `trusted`-th may err by a ten-thousandth.

    The eigensolver errs by a few units of the largest eigenvalue, the product by less than a unit of the trace.
    """
    squares = eigenvalues(own).double()
    last = float(squares[min(trusted, len(squares)) - 1])
    if not last * VALUE_ERROR > 10 * UNIT * float(squares[0]):
        squares = eigenvalues(own.double())
    if not last * VALUE_ERROR > UNIT * float(own.diagonal().double().sum()):
        return None
    values: Tensor = squares.clamp(min=0).sqrt()
    return values


def change_error(
    followed: Followed,
    base: Shaped[Tensor, "m r"],
    tuned: Shaped[Tensor, "m r"],
    update: Float32[Tensor, "m r"],
    *,
    probes: int = 2,
) -> float:
    """norm_F of the error of C, estimated from what it does to random vectors.

    The mean square of norm(E z) over Gaussian z is norm_F(E)^2. Rounding errors have no preferred direction, so
    that few vectors tell. What C should do to them is found as W0'D + D'W1, in which nothing cancels: float32 adds
    errors of the kind that are being measured, no larger.
    """
    random = torch.Generator().manual_seed(0)
    # As rows, which run at the speed of memory.
    z = torch.randn(probes, len(followed.s), generator=random).to(followed.s.device)
    x = multiply(z, followed.v.mT)
    grown = torch.zeros_like(x)
    for start in range(0, base.shape[0], 4 * STRIP):
        before, after, d = (side[start : start + 4 * STRIP].float() for side in (base, tuned, update))
        grown += multiply(multiply(x, d.mT), before) + multiply(multiply(x, after.mT), d)
    error = multiply(grown, followed.v) - multiply(z, followed.change)
    return float(torch.linalg.matrix_norm(error.double())) / math.sqrt(probes)
