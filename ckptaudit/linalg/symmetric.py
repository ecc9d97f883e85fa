"""Symmetric matrices: Gram products, and all or the leading eigenvalues and eigenvectors, descending."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ckptaudit.linalg.fast import lapack
from ckptaudit.linalg.parts import cached_property
from ckptaudit.linalg.products import multiply

SMALL = 128
"""Below this size torch's own functions are as quick."""

SKEW = 1e-10
"""How far from orthonormal a few eigenvectors may be before all of them are computed, which keeps them so."""

LARGE = 2560
"""From this size on the reduction of MKL, which torch has on x86, is the quickest: it stays out of memory's way."""

BLOCK = 64
"""Rows that are mirrored at a time."""


def mirrored(upper: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """A matrix of which only the upper triangle has been computed, made symmetric in place."""
    n = len(upper)
    for a in range(0, n, BLOCK):
        b = min(a + BLOCK, n)
        corner = upper[a:b, a:b]
        corner.copy_(corner.triu() + corner.triu(1).mT)
        upper[b:, a:b] = upper[a:b, b:].mT
    return upper


def triangle(matrix: Float[Tensor, "n n"]) -> Float[Tensor, "_"]:
    """The blocks on and above the diagonal, row after row of them: little more than half of a symmetric matrix."""
    n = len(matrix)
    return torch.cat([matrix[a : a + BLOCK, a:].reshape(-1) for a in range(0, n, BLOCK)])


def from_triangle(blocks: Float[Tensor, "_"], n: int) -> Float[Tensor, "n n"]:
    """The symmetric matrix of which `triangle` kept the blocks."""
    matrix, start = blocks.new_empty(n, n), 0
    for a in range(0, n, BLOCK):
        part = matrix[a : a + BLOCK, a:]
        part.copy_(blocks[start : start + part.numel()].view(part.shape))
        start += part.numel()
    return mirrored(matrix)


def add_gram(rows: Float[Tensor, "m n"], total: Float[Tensor, "n n"]) -> None:
    """Add W'W to `total`, at least to its upper triangle: half of a product's work, where BLAS can."""
    if _by_lapack(total):
        lapack.add_gram(rows, total)
    else:
        total += multiply(rows.mT, rows)


def eigenvalues(matrix: Float[Tensor, "n n"]) -> Float[Tensor, "n"]:
    """All eigenvalues, descending. Equals `numpy.linalg.eigvalsh(matrix)[::-1]`."""
    if matrix.device.type == "cpu" and len(matrix) >= SMALL and not _by_mkl(matrix):
        # As quick as LAPACK through SciPy, which takes a fifth of a second to import.
        with suppress(np.linalg.LinAlgError):
            return torch.from_numpy(np.linalg.eigvalsh(matrix.numpy())).flip(0)
    values: Tensor = torch.linalg.eigvalsh(matrix).flip(0)
    return values


def largest_eigenvalues(matrix: Float[Tensor, "n n"], count: int) -> Float64[Tensor, "c"]:
    """The `count` largest eigenvalues, descending, to the accuracy of the matrix's own type."""
    if matrix.dtype is torch.float32 and _by_lapack(matrix):
        try:
            # Brought to tridiagonal form in float32; its eigenvalues in float64, or they would lose a digit more.
            diagonal, off, _ = lapack.tridiagonal(matrix.clone(), triangle="U")
            return lapack.tridiagonal_values(diagonal.double(), off.double()).flip(0)[:count]
        except lapack.Unsolved:
            pass
    return eigenvalues(matrix)[:count].double()


class Eigen:
    """All eigenvalues of a matrix, descending, and eigenvectors of the first ones on request."""

    def __init__(self, matrix: Float[Tensor, "n n"]) -> None:
        self._matrix = matrix
        self._reduced: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self.values: Float[Tensor, "n"] = self._reduce() if _by_lapack(matrix) else self._all[0]

    def vectors(self, count: int) -> Float[Tensor, "n c"]:
        """The eigenvectors of the first `count` eigenvalues, orthonormal to 1e-10."""
        few = count <= len(self._matrix) // 4
        found = self._of_tridiagonal(count) if few and self._reduced is not None else None
        return found if found is not None else self._all[1][:, :count].contiguous()

    def _reduce(self) -> Float[Tensor, "n"]:
        reflectors = self._matrix.clone()
        try:
            diagonal, off, factors = lapack.tridiagonal(reflectors)
            values = lapack.tridiagonal_values(diagonal, off)
        except lapack.Unsolved:
            return self._all[0]
        self._reduced = reflectors, diagonal, off, factors
        return values.flip(0)

    def _of_tridiagonal(self, count: int) -> Float[Tensor, "n c"] | None:
        """From those of the tridiagonal form; None where no quick way keeps them orthonormal."""
        assert self._reduced is not None  # asked for where it is not
        reflectors, diagonal, off, factors = self._reduced
        values = self.values[:count].flip(0)
        for find in (lapack.tridiagonal_vectors, lapack.tridiagonal_vectors_of_ties):
            try:
                rows = find(diagonal, off, values)
                # As a question that NaN answers with no: either way overflows on matrices out of all scale.
                if skew(rows.mT) <= SKEW:
                    lapack.transformed_back(reflectors, factors, rows)
                    return rows.flip(0).mT.contiguous()
            except lapack.Unsolved:
                continue
        return None

    @cached_property
    def _all(self) -> tuple[Float[Tensor, "n"], Float[Tensor, "n n"]]:
        return eigenvectors(self._matrix)


def eigenvectors(matrix: Float[Tensor, "n n"]) -> tuple[Float[Tensor, "n"], Float[Tensor, "n n"]]:
    """All eigenvalues, descending, and their eigenvectors. Equals `numpy.linalg.eigh`, reversed."""
    if _by_lapack(matrix):
        try:
            rows = matrix.clone()
            values = lapack.decomposed(rows)
            return values.flip(0), rows.flip(0).mT
        except lapack.Unsolved:
            pass
    values, vectors = torch.linalg.eigh(matrix)
    return values.flip(0), vectors.flip(1)


def skew(vectors: Float[Tensor, "n c"]) -> float:
    """norm_F(V'V - I): how far columns are from orthonormal."""
    inner = multiply(vectors.mT, vectors)
    inner.diagonal().sub_(1)
    return float(torch.linalg.matrix_norm(inner))


def _by_lapack(matrix: Float[Tensor, "n n"]) -> bool:
    return matrix.device.type == "cpu" and len(matrix) >= SMALL and lapack.is_available()


def _by_mkl(matrix: Float[Tensor, "n n"]) -> bool:
    return len(matrix) >= LARGE and bool(torch.backends.mkl.is_available())  # type: ignore[no-untyped-call]
