"""BLAS and LAPACK routines for symmetric matrices on a CPU, by addresses that SciPy publishes for compiled code.

torch has neither a symmetric product nor a part of an eigendecomposition. SciPy's own functions have both, but hold
the interpreter's lock, so that two threads would wait for each other; a call through ctypes lets go of it.
Matrices are torch's: a row-major one is a column-major one transposed, and a symmetric one is both.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from ckptaudit.linalg.threads import hold_to_limit

ROUTINES = tuple(
    letter + stem for letter in "sd" for stem in ("syrk", "sytrd", "sterf", "stein", "stemr", "ormtr", "syevd")
)
"""All that is called here, in single and double precision: offered together or not at all."""

PANEL = 64
"""Columns that LAPACK treats at a time, by which its workspaces are measured."""


class Unsolved(Exception):
    """LAPACK reports that an iteration did not converge."""


@cache
def is_available() -> bool:
    """Whether SciPy has every routine that is called here, each with the arguments that are passed."""
    try:
        for name in ROUTINES:
            _routine(name)
    except NotImplementedError:
        return False
    return True


def add_gram(rows: Float[Tensor, "m n"], total: Float[Tensor, "n n"]) -> None:
    """Add W'W to the upper triangle of `total`, for W stored by rows or by columns."""
    (m, n), by_rows = rows.shape, rows.stride(1) == 1
    leading = rows.stride(0) if by_rows else rows.stride(1)
    if (rows.stride(1) if by_rows else rows.stride(0)) != 1:
        rows, by_rows, leading = rows.contiguous(), True, n
    letter = _letter(rows)
    # Column-major, the lower triangle is what torch sees as the upper one.
    _call(letter + "syrk", "L", "N" if by_rows else "T", n, m, 1.0, rows, leading, 1.0, total, n)


def tridiagonal(matrix: Float[Tensor, "n n"], *, triangle: str = "L") -> tuple[Tensor, Tensor, Tensor]:
    """Diagonal, off-diagonal and the reflectors' factors of Q'AQ; overwrites A with the reflectors.

    `transformed_back` takes what comes of the lower triangle. In float32 the upper one is a seventh quicker.
    """
    n = len(matrix)
    diagonal, off, factors = (matrix.new_empty(n) for _ in range(3))
    work = matrix.new_empty(PANEL * n)
    _solved(_call(_letter(matrix) + "sytrd", triangle, n, matrix, n, diagonal, off, factors, work, len(work), None))
    return diagonal, off, factors


def tridiagonal_values(diagonal: Float[Tensor, "n"], off: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Eigenvalues of a tridiagonal matrix, ascending."""
    values = diagonal.clone()
    _solved(_call(_letter(values) + "sterf", len(values), values, off.clone(), None))
    return values


def tridiagonal_vectors(
    diagonal: Float[Tensor, "n"], off: Float[Tensor, "n"], values: Float[Tensor, "c"]
) -> Float[Tensor, "c n"]:
    """Eigenvectors for some eigenvalues of a tridiagonal matrix, ascending, as rows; by inverse iteration."""
    n, c = len(diagonal), len(values)
    vectors = diagonal.new_zeros(c, n)
    blocks, ends = torch.ones(n, dtype=torch.int32), torch.full((n,), n, dtype=torch.int32)
    spare, failed = torch.empty(n, dtype=torch.int32), torch.empty(c, dtype=torch.int32)
    work = diagonal.new_empty(5 * n)
    name = _letter(diagonal) + "stein"
    _solved(_call(name, n, diagonal, off, c, values, blocks, ends, vectors, n, work, spare, failed, None))
    return vectors


def tridiagonal_vectors_of_ties(
    diagonal: Float[Tensor, "n"], off: Float[Tensor, "n"], values: Float[Tensor, "c"]
) -> Float[Tensor, "c n"]:
    """Eigenvectors for the largest eigenvalues, as rows, ascending; orthonormal for repeated eigenvalues too.

    By multiple relatively robust representations, slower than inverse iteration where there are no ties.
    """
    n, c = len(diagonal), len(values)
    found, vectors = torch.empty_like(diagonal), diagonal.new_empty(c, n)
    support, robust = torch.empty(2 * c, dtype=torch.int32), torch.ones(1, dtype=torch.int32)
    count, work, spare = (
        torch.empty(1, dtype=torch.int32),
        diagonal.new_empty(18 * n),
        torch.empty(10 * n, dtype=torch.int32),
    )
    sides = "V", "I", n, diagonal.clone(), off.clone(), 0.0, 0.0, n - c + 1, n, count
    places = found, vectors, n, c, support, robust, work, len(work), spare, len(spare), None
    _solved(_call(_letter(diagonal) + "stemr", *sides, *places))
    return vectors


def transformed_back(
    reflectors: Float[Tensor, "n n"], factors: Float[Tensor, "n"], vectors: Float[Tensor, "c n"]
) -> None:
    """Eigenvectors of A from those of Q'AQ, both as rows, in place."""
    c, n = vectors.shape
    work = vectors.new_empty(PANEL * n)
    name = _letter(vectors) + "ormtr"
    _solved(_call(name, "L", "L", "N", n, c, reflectors, n, factors, vectors, n, work, len(work), None))


def decomposed(matrix: Float[Tensor, "n n"]) -> Float[Tensor, "n"]:
    """Eigenvalues, ascending; overwrites the matrix with the eigenvectors as rows."""
    n = len(matrix)
    values = matrix.new_empty(n)
    work = matrix.new_empty(1 + 6 * n + 2 * n * n)
    spare = torch.empty(3 + 5 * n, dtype=torch.int32)
    name = _letter(matrix) + "syevd"
    _solved(_call(name, "V", "L", n, matrix, n, values, work, len(work), spare, len(spare), None))
    return values


def _letter(matrix: Tensor) -> str:
    return {torch.float32: "s", torch.float64: "d"}[matrix.dtype]


def _solved(status: int) -> None:
    if status:
        raise Unsolved


def _call(name: str, *arguments: str | int | float | Tensor | None) -> int:
    """Call a routine; None stands for the status that it returns."""
    status = ctypes.c_int(0)
    real = ctypes.c_float if name[0] == "s" else ctypes.c_double
    held: list[object] = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            held.append(ctypes.c_void_p(argument.data_ptr()))
        elif isinstance(argument, str):
            held.append(ctypes.byref(ctypes.c_char(argument.encode())))
        elif isinstance(argument, int):
            held.append(ctypes.byref(ctypes.c_int(argument)))
        else:
            held.append(ctypes.byref(status if argument is None else real(argument)))
    _routine(name)(*held)
    return status.value


@cache
def _routine(name: str) -> Callable[..., None]:
    # A fifth of a second, for which only those who decompose wait.
    from scipy.linalg import cython_blas, cython_lapack

    hold_to_limit()
    table = cython_blas if name.endswith("syrk") else cython_lapack
    capsule = table.__pyx_capi__.get(name)
    if capsule is None:
        raise NotImplementedError(f"SciPy publishes no {name}")
    api = ctypes.pythonapi
    signature = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", api))(capsule)
    address = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", api))(
        capsule, signature
    )
    declared = re.fullmatch(r"void \((.*)\)", signature.decode())
    kinds = declared[1].split(", ") if declared else []
    if not kinds or not all(re.fullmatch(rf"char \*|int \*|\w+_{name[0]} \*", kind) for kind in kinds):
        raise NotImplementedError(f"{name} is declared as {signature.decode()}")
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(kinds))(address)
