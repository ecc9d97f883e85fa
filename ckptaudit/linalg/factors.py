"""Singular value decompositions by the cheaper of two routes, the cheap one only where its error is certified."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ckptaudit.linalg.spectra import numerical_rank

SMALL = 128
"""Below this short side a direct decomposition costs next to nothing."""

ANGLE_ERROR = 1e-6
"""Largest certified error of a subspace, in radians, with which the cheap route is taken."""


def gram_error(stack: Float[Tensor, "batch m n"], squares: Float[Tensor, "batch r"]) -> Float[Tensor, "batch"]:
    """Bound on the error of any eigenvalue of the computed W W', for W of m rows, m <= n.

    Rounding of the product is at most n eps norm_F(W)^2 in norm (Higham, 2002, section 3.5), the
    eigensolver's backward error a modest multiple of m eps times the largest eigenvalue.
    """
    eps = torch.finfo(stack.dtype).eps
    m, n = stack.shape[1:]
    return eps * (n * squares.clamp(min=0).sum(dim=1) + 10 * m * squares[:, 0].clamp(min=0))


class Factors:
    """Thin decomposition `W = U diag(s) V'` of a stack: singular values, and leading vectors on request.

    `cuts` are the subspace sizes that will be asked for. The eigenvalues of the smaller Gram matrix
    give everything at a fraction of the cost, to an error E in the squares of the singular values: the
    leading-k subspace then errs by E / (s_k^2 - s_{k+1}^2) radians at most (Davis and Kahan 1970). A matrix
    for which that is not small, or whose least singular value drowns in E, is decomposed directly. `by_gram` says
    which were not.
    """

    def __init__(self, stack: Float[Tensor, "batch m n"], cuts: tuple[int, ...]) -> None:
        self._tall = stack.shape[1] > stack.shape[2]
        self._wide = stack.mT if self._tall else stack
        r = self._wide.shape[1]
        rows = stack.shape[0]
        self._direct = torch.ones(rows, dtype=torch.bool, device=stack.device)
        self._short = stack.new_empty(rows, r, r)
        self.s: Float[Tensor, "batch r"] = stack.new_empty(rows, r)
        self.s_error: Float[Tensor, "batch"] = stack.new_zeros(rows)
        self._long: dict[int, Tensor] = {}
        self.by_gram: Bool[Tensor, "batch"] = ~self._direct
        if r >= SMALL:
            self._by_gram(cuts)
        self._directly()
        self.rank: Int[Tensor, "batch"] = numerical_rank(self.s, m=stack.shape[1], n=stack.shape[2])

    def left(self, count: int) -> Float[Tensor, "batch m l"]:
        """The leading left singular vectors; past the rank they are arbitrary."""
        return self._long_side(count) if self._tall else self._short[:, :, :count]

    def right(self, count: int) -> Float[Tensor, "batch n l"]:
        """The leading right singular vectors; past the rank they are arbitrary."""
        return self._short[:, :, :count] if self._tall else self._long_side(count)

    def part(self, rank: int) -> Float[Tensor, "batch m n"]:
        """The best approximation of the given rank, `U_l U_l' W`."""
        leading = self._short[:, :, :rank]
        part: Tensor = leading @ (leading.mT @ self._wide)
        return part.mT if self._tall else part

    def _by_gram(self, cuts: tuple[int, ...]) -> None:
        values, vectors = torch.linalg.eigh(self._wide @ self._wide.mT)
        squares, self._short = values.flip(1), vectors.flip(2)
        error = gram_error(self._wide, squares)
        self.s = squares.clamp(min=0).sqrt()
        self._direct = ~_certified(squares, error, cuts)
        self.by_gram = ~self._direct
        # An error of E in the square is one of E / (2 s) in the value, to first order, and E << s^2 here.
        self.s_error = torch.linalg.vector_norm(
            error[:, None] / self.s.clamp_min(torch.finfo(self.s.dtype).tiny), dim=1
        ).where(~self._direct, torch.zeros_like(error))

    def _directly(self) -> None:
        if self._short.device.type != "cpu" and self._short.shape[1] < SMALL:
            # All of them: in one call, which starts the device once.
            v, self.s, uh = torch.linalg.svd(self._wide.mT.contiguous(), full_matrices=False)
            self._short, self._long = uh.mT, dict(enumerate(v))
            return
        for row in self._direct.nonzero().flatten().tolist():
            # Tall, which LAPACK does three times faster than wide.
            v, s, uh = torch.linalg.svd(self._wide[row].mT.contiguous(), full_matrices=False)
            self._short[row], self.s[row], self._long[row] = uh.mT, s, v

    def _long_side(self, count: int) -> Float[Tensor, "batch n l"]:
        if len(self._long) == self._wide.shape[0]:
            return torch.stack([self._long[row][:, :count] for row in range(len(self._long))])
        # W'u_i = s_i v_i. The quotient would lose orthogonality where s falls; QR keeps every leading span.
        vectors: Tensor = torch.linalg.qr(self._wide.mT @ self._short[:, :, :count]).Q
        for row, exact in self._long.items():
            vectors[row] = exact[:, :count]
        return vectors


def direct_values(stack: Float[Tensor, "batch m n"]) -> Float[Tensor, "batch r"]:
    """Singular values of the matrix itself; taken tall, which LAPACK does three times faster than wide."""
    tall = stack if stack.shape[1] >= stack.shape[2] else stack.mT.contiguous()
    values: Tensor = torch.linalg.svdvals(tall)
    return values


def singular_values(stack: Float[Tensor, "batch m n"], *, trusted: int) -> Float[Tensor, "batch r"]:
    """Singular values, descending; the leading `trusted` to a relative 1e-6 at least, and norm and squares as well.

    By the Gram matrix where the `trusted`-th square is a million times its error, else directly.
    """
    wide = stack.mT if stack.shape[1] > stack.shape[2] else stack
    if wide.shape[1] < SMALL:
        return direct_values(stack)
    squares = torch.linalg.eigvalsh(wide @ wide.mT).flip(1)
    s: Tensor = squares.clamp(min=0).sqrt()
    last = squares[:, min(trusted, squares.shape[1]) - 1]
    doubtful = ~(last > 1e6 * gram_error(wide, squares))
    if bool(doubtful.any()):
        s[doubtful] = direct_values(stack[doubtful])
    return s


def _certified(
    squares: Float[Tensor, "batch r"], error: Float[Tensor, "batch"], cuts: tuple[int, ...]
) -> Bool[Tensor, "batch"]:
    sure = squares[:, -1] > 4 * error
    for cut in (c for c in cuts if c < squares.shape[1]):
        sure &= squares[:, cut - 1] - squares[:, cut] > error / ANGLE_ERROR
    return sure
