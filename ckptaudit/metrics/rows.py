"""How far single rows of a matrix moved: what a norm over a vocabulary of 150,000 rows does not show."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ckptaudit.metrics.batch import PairBatch
from ckptaudit.metrics.large import LargePair
from ckptaudit.metrics.matrix import metric

ROWS_AT_ONCE = 8192
LEAST_NORM = 1e-15


@metric(
    unit="1",
    scale="size",
    formula="max_i norm(d_i) / median_i norm(w_i), rows d_i of W1 - W0 and w_i of W0; 0 for a zero update",
    source="definition",
    needs="matrix",
    standing=False,
)
def largest_row_change(batch: PairBatch) -> Tensor:
    """The largest change of a row, against the row norm that is usual in the base.

    One token of a vocabulary whose embedding was overwritten reads 1 here, however many rows there are. Where the
    median row of the base is zero the mean row norm stands in, and a change of an all-zero base reads infinity.
    """
    update = batch.difference.update[None] if isinstance(batch, LargePair) else batch.update
    largest = _row_norms(update).amax(dim=1)
    rows = _row_norms(batch.stored_base if batch.is_ordinary else batch.base)
    ranked = rows.sort(dim=1).values
    # torch's own median of an even number of values is the lower of the middle two.
    median = 0.5 * (ranked[:, (rows.shape[1] - 1) // 2] + ranked[:, rows.shape[1] // 2])
    usual = torch.where(median > 0, median, rows.mean(dim=1))
    return torch.where(largest > 0, largest / usual, torch.zeros_like(largest))


def _row_norms(matrices: Float[Tensor, "batch m n"]) -> Float[Tensor, "batch m"]:
    """Row norms, right to float32; a block of rows at a time, since a vocabulary is large."""
    blocks = torch.split(matrices, ROWS_AT_ONCE, dim=1)
    return torch.cat([_norms(block) for block in blocks], dim=1)


def _norms(block: Float[Tensor, "batch m n"]) -> Float64[Tensor, "batch m"]:
    norms: Tensor = torch.linalg.vector_norm(block.float(), dim=2).double()
    # Where float32 has squared beyond its range, or below it.
    odd = ~norms.isfinite() | (norms < LEAST_NORM)
    if bool(odd.any()):
        norms = torch.linalg.vector_norm(block.double(), dim=2)
    return norms
