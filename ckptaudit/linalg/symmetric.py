"""Symmetric matrices: Gram products, and eigenvalues and eigenvectors in part or in whole, descending."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ckptaudit.linalg import lapack

SMALL = 128
"""Below this size torch's own functions are as quick."""

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


def add_gram(rows: Float[Tensor, "m n"], total: Float[Tensor, "n n"]) -> None:
    """Add W'W to `total`, at least to its upper triangle: half of a product's work, where BLAS can."""
    if _by_lapack(total):
        lapack.add_gram(rows, total)
    else:
        total.addmm_(rows.mT, rows)


def eigenvalues(matrix: Float[Tensor, "n n"]) -> Float[Tensor, "n"]:
    """All eigenvalues, descending. Equals `numpy.linalg.eigvalsh(matrix)[::-1]`."""
    if _by_lapack(matrix):
        try:
            diagonal, off, _ = lapack.tridiagonal(matrix.clone())
            return lapack.tridiagonal_values(diagonal, off).flip(0)
        except lapack.Unsolved:
            pass
    values: Tensor = torch.linalg.eigvalsh(matrix).flip(0)
    return values


def leading_vectors(matrix: Float[Tensor, "n n"], count: int) -> tuple[Float[Tensor, "n"], Float[Tensor, "n c"]]:
    """All eigenvalues, descending, and the eigenvectors of the first `count`.

    Each pair fulfils A x = l x up to rounding; eigenvectors of nearly equal eigenvalues may be a little less than
    orthogonal. Who relies on more has to look.
    """
    if not _by_lapack(matrix):
        return _leading_of_all(matrix, count)
    try:
        reflectors = matrix.clone()
        diagonal, off, factors = lapack.tridiagonal(reflectors)
        values = lapack.tridiagonal_values(diagonal, off)
        vectors = lapack.tridiagonal_vectors(diagonal, off, values[-count:].contiguous())
        lapack.turn_back(reflectors, factors, vectors)
    except lapack.Unsolved:
        return _leading_of_all(matrix, count)
    return values.flip(0), vectors.flip(0).mT.contiguous()


def eigenvectors(matrix: Float[Tensor, "n n"]) -> tuple[Float[Tensor, "n"], Float[Tensor, "n n"]]:
    """All eigenvalues, descending, and their eigenvectors. Equals `numpy.linalg.eigh`, turned round."""
    if _by_lapack(matrix):
        try:
            rows = matrix.clone()
            values = lapack.decomposed(rows)
            return values.flip(0), rows.flip(0).mT
        except lapack.Unsolved:
            pass
    values, vectors = torch.linalg.eigh(matrix)
    return values.flip(0), vectors.flip(1)


def _leading_of_all(matrix: Float[Tensor, "n n"], count: int) -> tuple[Float[Tensor, "n"], Float[Tensor, "n c"]]:
    values, vectors = torch.linalg.eigh(matrix)
    return values.flip(0), vectors.flip(1)[:, :count].contiguous()


def _by_lapack(matrix: Float[Tensor, "n n"]) -> bool:
    return matrix.device.type == "cpu" and len(matrix) >= SMALL and lapack.is_available()
