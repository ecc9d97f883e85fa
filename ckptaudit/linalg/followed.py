"""Singular values and subspaces of W0 + D, followed from those of W0: the update is small and known exactly.

Everything here is for tall matrices, W0 = U S V' with all of S and V known, and works on the tuned Gram matrix
in the base's directions, V'(W0 + D)'(W0 + D)V = S^2 + C. Only C is computed, from D, in float32: its error is relative
to the update, not to the weights. docs/fast-paths.md derives each step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float32, Float64, Shaped
from torch import Tensor

from ckptaudit.linalg.leading import blocks, mirrored

MIXING = 0.25
"""Largest first-order mixing of two singular directions up to which the series is trusted."""

NEXT_TERM = 2e-3
"""Largest third-order share of a spectral shift that is left out."""

SHIFT_ERROR = 5e-3
"""Largest error of a spectral shift, relative, that rounding may cause."""

STEPS = 16
CONVERGED = 1e-6
ACCEPTED = 1e-4
"""Relative size of the last correction to a subspace: where to stop, and what is still good enough."""

ROWS = 1024


@dataclass(frozen=True)
class Products:
    """(W0 + D/2)'D and D'D in float32: with its transpose, the first is what D adds to the Gram matrix W0'W0."""

    cross: Float32[Tensor, "r r"]
    own: Float32[Tensor, "r r"]


def products(base: Shaped[Tensor, "m r"], update: Float32[Tensor, "m r"]) -> Products:
    """Both products, block of rows by block of rows."""
    r = base.shape[1]
    cross, own = (torch.zeros(r, r, dtype=torch.float32, device=base.device) for _ in range(2))
    for start in range(0, base.shape[0], ROWS):
        d = update[start : start + ROWS]
        cross.addmm_(base[start : start + ROWS].float().add_(d, alpha=0.5).mT, d)
        for a, b in blocks(r):
            own[a:b, a:].addmm_(d[:, a:b].mT, d[:, a:])
    return Products(cross, mirrored(own))


@dataclass(frozen=True)
class Planes:
    """Gram matrices of the tangents from the base's top-l subspaces to the tuned ones, in the base's directions."""

    left: Float64[Tensor, "l l"]
    right: Float64[Tensor, "l l"]


class Followed:
    """The tuned matrix seen from the base. What cannot be followed reliably is None."""

    def __init__(self, s: Float64[Tensor, "r"], v: Float32[Tensor, "r r"], found: Products) -> None:
        self.s, self.v, self._own = s, v, found.own
        self._cross = v.mT @ (found.cross @ v)

    @cached_property
    def change(self) -> Float32[Tensor, "r r"]:
        """C, the change of the Gram matrix."""
        return self._cross + self._cross.mT

    @cached_property
    def _gaps(self) -> Float32[Tensor, "r r"]:
        """Differences of the first-order squares, row minus column."""
        squares = self.s.square() + self.change.diagonal().double()
        return (squares[:, None] - squares[None, :]).float()

    @cached_property
    def _off(self) -> Float32[Tensor, "r r"]:
        off = self.change.clone()
        off.diagonal().zero_()
        return off

    @cached_property
    def _mixing(self) -> Float32[Tensor, "r r"]:
        """First-order coefficients of the tuned right directions in the base's."""
        x = self._off / self._gaps
        x.diagonal().zero_()
        return x

    @cached_property
    def follows(self) -> bool:
        """Whether no two directions mix so much that the series of perturbations is in doubt."""
        return bool(self._mixing.abs().amax() <= MIXING) if len(self.s) > 1 else True

    @cached_property
    def tuned_s(self) -> Float64[Tensor, "r"] | None:
        """Singular values of the tuned matrix, descending, to second order, each pair of directions solved exactly.

        None where the third-order term, looked at in a sample of columns, is no small part of the shift.
        """
        if not self.follows:
            return None
        off = self._off
        pairs = (
            2 * off.square() / (self._gaps.abs() + (self._gaps.square() + 4 * off.square()).sqrt()).clamp_min(1e-38)
        )
        second = torch.copysign(pairs, self._gaps).sum(dim=1, dtype=torch.float64)
        squares = self.s.square() + self.change.diagonal().double() + second
        tuned = squares.clamp(min=0).sqrt().sort(descending=True).values
        moved = float(torch.linalg.vector_norm(tuned - self.s))
        return tuned if self._third() <= NEXT_TERM * moved else None

    def _third(self) -> float:
        """Estimate of the norm of the third-order terms of the singular values, x_i' C x_i / (2 s_i)."""
        columns = torch.arange(0, len(self.s), max(1, len(self.s) // 128), device=self.s.device)
        x = self._mixing[:, columns]
        terms = (x * (self._off @ x)).sum(dim=0).double() / (2 * self.s[columns])
        return float(torch.linalg.vector_norm(terms)) * math.sqrt(len(self.s) / len(columns))

    def planes(self, size: int) -> Planes | None:
        """How the top `size` subspaces turned; None where no iteration finds them."""
        if size == len(self.s):
            return None
        y = self._slopes(size)
        return None if y is None else Planes(self._left(y, size), (y.mT @ y).double())

    def _slopes(self, size: int) -> Float32[Tensor, "q l"] | None:
        """Y with span(V [I; Y]) invariant: the Riccati equation C21 + A22 Y = Y (A11 + C12 Y), by fixed point."""
        gaps = self._gaps[:size, size:].mT
        if not float(gaps.amin()) > 0:
            return None
        inner, outer, cross = self._off[:size, :size], self._off[size:, size:], self._off[size:, :size]
        y = cross / gaps
        for _ in range(STEPS):
            following = (cross + outer @ y - y @ (inner + cross.mT @ y)) / gaps
            step, length = (float(torch.linalg.matrix_norm(w)) for w in (following - y, following))
            y = following
            if not step > CONVERGED * length:
                break
        sound = step <= ACCEPTED * length and float(y.abs().amax()) <= 2 * MIXING
        return y if sound else None

    def _left(self, y: Float32[Tensor, "q l"], size: int) -> Float64[Tensor, "l l"]:
        """The tangents on the left: W1 V [I; Y] split along U and across it, by Gram matrices alone."""
        v = self.v[:, :size] + self.v[:, size:] @ y
        images = self._own @ v
        # V'W0'D V[I; Y]
        h = self._cross[:, :size] + self._cross[:, size:] @ y - 0.5 * (self.v.mT @ images)
        s, rest = self.s[:size], self.s[size:]
        inside, outside = h[:size].double() / s[:, None], h[size:].double()
        wide = y.double()
        mixed = wide.mT @ outside
        across = (
            (wide * rest[:, None]).mT @ (wide * rest[:, None])
            + mixed
            + mixed.mT
            + (v.mT @ images).double()
            - inside.mT @ inside
        )
        along = torch.diag(s) + inside
        half = torch.linalg.solve(along.mT, across)
        tangents: Tensor = torch.linalg.solve(along.mT, half.mT)
        return 0.5 * (tangents + tangents.mT)

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


def update_values(own: Float32[Tensor, "r r"], *, trusted: int) -> Float64[Tensor, "r"] | None:
    """Singular values of D, descending, from D'D; None where the `trusted`-th is not right to a part in ten thousand."""
    squares = torch.linalg.eigvalsh(own).flip(0).double()
    last = float(squares[min(trusted, len(squares)) - 1])
    if not last > 1e4 * 10 * 2.0**-24 * float(squares[0]) * 0.5:
        squares = torch.linalg.eigvalsh(own.double()).flip(0)
        if not float(squares[min(trusted, len(squares)) - 1]) > 1e4 * 10 * 2.0**-24 * float(squares[0]) * 0.05:
            return None
    return squares.clamp(min=0).sqrt()


def change_error(
    followed: Followed, base: Shaped[Tensor, "m r"], tuned: Shaped[Tensor, "m r"], *, probes: int = 2
) -> float:
    """norm_F of the error of C, estimated from what it does to random vectors, in float64.

    The mean square of norm(E z) over Gaussian z is norm_F(E)^2. Rounding errors have no preferred direction, so
    that few vectors tell.
    """
    random = torch.Generator().manual_seed(0)
    z = torch.randn(len(followed.s), probes, generator=random, dtype=torch.float64).to(followed.s.device)
    v = followed.v.double()
    x = v @ z
    grown = torch.zeros_like(x)
    for start in range(0, base.shape[0], ROWS):
        before, after = (side[start : start + ROWS].double() for side in (base, tuned))
        grown += after.mT @ (after @ x) - before.mT @ (before @ x)
    error = v.mT @ grown - followed.change.double() @ z
    return float(torch.linalg.matrix_norm(error)) / math.sqrt(probes)
