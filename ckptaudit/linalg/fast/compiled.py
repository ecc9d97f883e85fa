"""The package's one compiled part: passes over an update, update.c, and tridiagonal matrices, tridiagonal.c.

Reinforcement learning leaves most bf16 weights as they were. A dense product multiplies by all of these zeros, and
the sparse ones of torch and SciPy take longer than the dense one. Where the package was installed without a C
compiler nothing here applies, and everything comes out the same, only later.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Bool, Float32, Float64, Shaped
from torch import Tensor

LIBRARY = Path(__file__).with_name("_compiled.so")
VERSION = 1
"""Of the functions' arguments; the library says which it was built for."""

STRIP = 64
"""Columns that are summed at a time: rows of sums have a multiple of them."""

PROBES = 4
"""Rows that are acted on at a time."""

HALVINGS = 36
"""Of an interval that holds all eigenvalues, a few times as long as the largest in magnitude."""

SPARSE = 0.7
"""Share of entries other than zero up to which a sparse product is the quicker one."""

Result = TypeVar("Result")

STORED = (torch.bfloat16, torch.float32)


def is_available() -> bool:
    """Whether the package was installed where there is a C compiler."""
    return _library() is not None


def applies(*stored: Shaped[Tensor, "m r"]) -> bool:
    """Whether these matrices, stored alike, can be passed over here."""
    first = stored[0]
    return (
        first.device.type == "cpu"
        and first.dtype in STORED
        and 1 in first.stride()
        and all(side.dtype is first.dtype and side.stride() == first.stride() for side in stored)
        and is_available()
    )


def is_sparse(update: Float32[Tensor, "m r"], *, share: float) -> bool:
    """Whether `products` should be computed here, for an update of which `share` of the entries are not zero."""
    return share <= SPARSE and applies(update)


def compared(
    base: Shaped[Tensor, "m n"],
    tuned: Shaped[Tensor, "m n"],
    update: Float32[Tensor, "m n"],
    changed: Bool[Tensor, "m n"],
) -> tuple[int, float]:
    """Fill in W1 - W0 and where it is not zero; how many entries that is, and the sum of squares, in float64.

    All matrices are contiguous.
    """
    parts, library = torch.get_num_threads(), _needed()
    squares = torch.zeros(parts, dtype=torch.float64)
    sides = base.data_ptr(), tuned.data_ptr(), _is_bf16(base), base.numel()

    def compute(part: int) -> int:
        results = update.data_ptr(), changed.data_ptr(), squares[part:].data_ptr()
        return int(library.ckptaudit_compare(*sides, part, parts, *results))

    return sum(_in_parts(compute, parts)), float(squares.sum())


def products(
    base: Shaped[Tensor, "m r"] | None, update: Float32[Tensor, "m r"]
) -> tuple[Float32[Tensor, "r r"], Float32[Tensor, "r r"]]:
    """(W0 + D/2)'D, zero without a base, and D'D, of the latter what lies on and above the diagonal.

    The update is stored by rows or by columns. Raises MemoryError.
    """
    parts, library = torch.get_num_threads(), _needed()
    if base is not None and not (base.dtype in STORED and base.stride() == update.stride()):
        base = torch.empty_like(update).copy_(base)
    (m, r), strides = update.shape, update.stride()
    sums = torch.zeros(2, r, -(-r // STRIP) * STRIP)
    left = (None, 0) if base is None else (base.data_ptr(), _is_bf16(base))
    results = (None if base is None else sums[0].data_ptr()), sums[1].data_ptr()

    def compute(part: int) -> int:
        return int(library.ckptaudit_products(*left, update.data_ptr(), *strides, m, r, part, parts, *results))

    if any(_in_parts(compute, parts)):
        raise MemoryError
    return sums[0, :, :r].mT, sums[1, :, :r]


def acted(
    rows: Float32[Tensor, "p r"], base: Shaped[Tensor, "m r"], tuned: Shaped[Tensor, "m r"]
) -> Float32[Tensor, "p r"]:
    """Rows times C = W1'W1 - W0'W0, in float32, found as (D z)'W1 + (W0 z)'D, in which nothing cancels."""
    parts, library = torch.get_num_threads(), _needed()
    (m, r), strides = base.shape, base.stride()
    sides = base.data_ptr(), tuned.data_ptr(), _is_bf16(base)
    rows, found = rows.contiguous(), torch.empty_like(rows)
    for start in range(0, len(rows), PROBES):
        few = rows[start : start + PROBES]
        sums = torch.zeros(parts, *few.shape)

        def compute(part: int, few: Tensor = few, sums: Tensor = sums) -> None:
            random = few.data_ptr(), len(few), sums[part].data_ptr()
            library.ckptaudit_act(*sides, *strides, m, r, part, parts, *random)

        _in_parts(compute, parts)
        found[start : start + PROBES] = sums.sum(dim=0)
    return found


def largest_values(diagonal: Float64[Tensor, "n"], off: Float64[Tensor, "n-1"], count: int) -> Float64[Tensor, "c"]:
    """The largest eigenvalues of a tridiagonal matrix, descending, to 2^-32 of the largest in magnitude or so.

    That is for a matrix that was brought to this form in float32: more digits would mean nothing.
    """
    values = diagonal.new_empty(count)
    reach = torch.zeros_like(diagonal)
    reach[1:] += off.abs()
    reach[:-1] += off.abs()
    low, high = float((diagonal - reach).amin()), float((diagonal + reach).amax())
    sides = diagonal.data_ptr(), off.data_ptr(), len(diagonal), count, _least_pivot(off)
    _needed().ckptaudit_largest_values(*sides, low, high, HALVINGS, values.data_ptr())
    return values


def tridiagonal_vectors(
    diagonal: Float64[Tensor, "n"], off: Float64[Tensor, "n-1"], values: Float64[Tensor, "c"]
) -> Float64[Tensor, "c n"]:
    """Eigenvectors for some eigenvalues of a tridiagonal matrix as rows of length 1, from twisted factorizations.

    Nothing makes those of close eigenvalues orthogonal, or right where a matrix is out of all scale: look at what
    comes. Raises MemoryError.
    """
    library, (n,), (c,) = _needed(), diagonal.shape, values.shape
    rows = diagonal.new_empty(c, n)
    values = values.contiguous()
    sides = diagonal.data_ptr(), off.data_ptr(), n, values.data_ptr(), c
    if library.ckptaudit_tridiagonal_vectors(*sides, _least_pivot(off), rows.data_ptr()):
        raise MemoryError
    return rows


def _least_pivot(off: Float64[Tensor, "_"]) -> float:
    # A pivot of zero is taken for one that rounding could have made of it, as LAPACK does.
    return torch.finfo(torch.float64).tiny * max(1.0, float(off.square().amax())) if len(off) else 0.0


def _in_parts(compute: Callable[[int], Result], parts: int) -> list[Result]:
    if parts == 1:
        return [compute(0)]
    with ThreadPoolExecutor(parts) as pool:
        return list(pool.map(compute, range(parts)))


def _is_bf16(stored: Shaped[Tensor, "m r"]) -> int:
    return int(stored.dtype is torch.bfloat16)


def _needed() -> ctypes.CDLL:
    library = _library()
    assert library is not None  # asked for where `applies` has said so
    return library


@cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(LIBRARY))
        if library.ckptaudit_version() != VERSION:
            return None
    except (OSError, AttributeError):
        return None
    address, long, integer = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
    library.ckptaudit_compare.argtypes = [address, address, integer, *[long] * 3, *[address] * 3]
    library.ckptaudit_compare.restype = long
    library.ckptaudit_products.argtypes = [address, integer, address, *[long] * 6, address, address]
    library.ckptaudit_act.argtypes = [address, address, integer, *[long] * 6, address, long, address]
    library.ckptaudit_act.restype = None
    values, real = library.ckptaudit_largest_values, ctypes.c_double
    values.argtypes, values.restype = [address, address, long, long, real, real, real, long, address], None
    vectors = library.ckptaudit_tridiagonal_vectors
    vectors.argtypes = [address, address, long, address, long, real, address]
    return library
