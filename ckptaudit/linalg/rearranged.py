"""Whether one matrix is another rearranged: transposed, rows in another order, shifted, scaled, one bit flipped."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Float32, Int64, Shaped
from torch import Tensor

from ckptaudit.linalg.differences import PIECE, pieces
from ckptaudit.linalg.products import empty

CLOSE = 0.2
"""Largest distance, relative to the norm, at which one matrix is taken for another: an update is far smaller."""

MOVED_ROW = 0.5
"""A row that moved by this share of its norm may be another row."""

MOST_ROWS = 8192
"""How many rows are compared with each other."""

POWER_ERROR = 0.5
"""How far the logarithm of a quotient may lie from a power of two: the entry has an update besides."""

SKETCH = 64
"""Columns of a row's sketch."""


def distance(one: Shaped[Tensor, "*s"], other: Shaped[Tensor, "*s"]) -> float:
    """norm_F(A - B) / norm_F(B), infinite for a zero B or where an entry is not finite."""
    size, far = 0.0, 0.0
    for a, b in _pieces(one, other):
        size = math.hypot(size, _norm(b))
        far = math.hypot(far, _norm(a.sub_(b)))
    return far / size if size > 0 and math.isfinite(far) else math.inf


def sample(matrix: Shaped[Tensor, "*s"], count: int = 4096) -> Float32[Tensor, "c"]:
    """Entries at evenly spaced places, the same for all tensors of one size."""
    flat = matrix.reshape(-1)
    step = max(1, flat.numel() // count) | 1  # an odd step does not run down one column
    return flat[::step].float()


def order_of_rows(after: Shaped[Tensor, "m n"], before: Shaped[Tensor, "m n"]) -> Int64[Tensor, "m"] | None:
    """The order o with after ~ before[o], where rows moved and each finds one of the moved rows; else None."""
    moved = torch.nonzero(moved_rows(after, before)).flatten()
    if not 2 <= len(moved) <= MOST_ROWS:
        return None
    order, a, b = torch.arange(len(after)), after[moved].float(), before[moved].float()
    random = torch.randn(a.shape[1], SKETCH, generator=torch.Generator().manual_seed(0))
    found = torch.cdist(a @ random, b @ random).argmin(dim=1)
    order[moved] = moved[found]
    if len(set(order.tolist())) < len(order) or distance(a, b[found]) > CLOSE:
        return None
    return order


def moved_rows(after: Shaped[Tensor, "m n"], before: Shaped[Tensor, "m n"]) -> Bool[Tensor, "m"]:
    """Which rows moved by more than MOVED_ROW of their norm; NaN moves a row."""
    moved = torch.empty(len(after), dtype=torch.bool)
    step = max(1, PIECE // max(1, after.shape[1]))
    for start in range(0, len(after), step):
        rows = slice(start, start + step)
        b = before[rows].float()
        far = torch.linalg.vector_norm(after[rows].float() - b, dim=1)
        moved[rows] = ~(far <= MOVED_ROW * torch.linalg.vector_norm(b, dim=1))
    return moved


def is_shifted(after: Shaped[Tensor, "m n"], before: Shaped[Tensor, "m n"], by: int) -> bool:
    """Whether row i of one is row i - by of the other, the ends apart."""
    inner = (after[by:], before[:-by]) if by > 0 else (after[:by], before[-by:])
    return len(after) > 2 and distance(sample(inner[0]), sample(inner[1])) <= CLOSE and distance(*inner) <= CLOSE


def rotary_order(rows: int, head: int) -> Int64[Tensor, "m"]:
    """The order that brings heads with interleaved rotary pairs to halves: 0, 2, 4, ..., 1, 3, 5, ... in each."""
    return torch.arange(rows).reshape(-1, head // 2, 2).transpose(1, 2).reshape(-1)


def blocks_of(order: Int64[Tensor, "m"], size: int) -> list[int] | None:
    """The order of blocks of consecutive rows of a size, where the rows within each keep theirs; else None."""
    if size < 1 or len(order) % size:
        return None
    blocks = order.reshape(-1, size)
    kept = blocks[:, :1] + torch.arange(size)
    return [int(first) // size for first in blocks[:, 0]] if torch.equal(blocks, kept) else None


def scaled_by(after: Shaped[Tensor, "*s"], before: Shaped[Tensor, "*s"]) -> tuple[float, float]:
    """The c of the nearest c B to A, and norm_F(A - c B) / norm_F(A); infinite residual for a zero A or B."""
    square, size, common = 0.0, 0.0, 0.0
    for a, b in _pieces(after, before, dtype=torch.float64):
        square += float(torch.dot(b, b))
        size = math.hypot(size, _norm(a))
        common += float(torch.dot(a, b))
    if not square > 0 or not 0 < size < math.inf:
        return 0.0, math.inf
    c, rest = common / square, 0.0
    for a, b in _pieces(after, before, dtype=torch.float64):
        rest = math.hypot(rest, _norm(a.sub_(b.mul_(c))))
    return c, rest / size


def flipped_bit(after: Shaped[Tensor, "m n"], before: Shaped[Tensor, "m n"]) -> tuple[int, int] | None:
    """The one entry that makes up nearly all of the update and is a power 2^(2^j) times or part of what it was."""
    at, largest, rest, start = 0, 0.0, 0.0, 0
    for a, b in _pieces(after, before):
        update = a.sub_(b).abs_().nan_to_num_(nan=math.inf, posinf=math.inf)
        here = int(update.argmax())
        found = float(update[here])
        update[here] = 0.0
        rest = math.hypot(rest, _norm(update), min(largest, found))
        if found > largest:
            at, largest = start + here, found
        start += len(update)
    row, column = divmod(at, after.shape[1])
    new, old = abs(float(after[row, column])), abs(float(before[row, column]))
    new = math.inf if math.isnan(new) else new
    if not (rest < math.inf and rest <= 0.5 * abs(new - old) and old > 0):
        return None
    if new == math.inf:
        return (row, column) if _is_a_bit_from_infinity(old, before.dtype) else None
    power = abs(math.log2(new / old)) if new > 0 else None
    is_bit = power is None or any(abs(power - 2**j) < POWER_ERROR for j in range(8))
    return (row, column) if is_bit and (power is None or power >= 3) else None


def _is_a_bit_from_infinity(value: float, dtype: torch.dtype) -> bool:
    """Whether all exponent bits but one are set: infinity and NaN have all of them (IEEE 754-2019, 3.4)."""
    bits = 5 if dtype is torch.float16 else 11 if dtype is torch.float64 else 8
    exponent = math.frexp(value)[1] - 2 + 2 ** (bits - 1)
    missing: int = 2**bits - 1 - exponent
    return missing.bit_count() == 1


def _pieces(
    *matrices: Shaped[Tensor, "*s"], dtype: torch.dtype = torch.float32
) -> Iterator[tuple[Float[Tensor, "_"], ...]]:
    """The entries of matrices side by side, a piece at a time, to be written over: all pieces share their places.

    A tensor that broke a limit may be the largest of its model, and memory for a copy of it takes longer to be
    given than all that is asked here takes to compute.
    """
    places: list[Tensor] = []
    for found in pieces(*matrices):
        places = places or [empty(len(piece), dtype=dtype, device=piece.device) for piece in found]
        yield tuple(place[: len(piece)].copy_(piece) for place, piece in zip(places, found, strict=True))


def _norm(piece: Float[Tensor, "_"]) -> float:
    return float(torch.linalg.vector_norm(piece))
