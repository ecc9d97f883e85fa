"""The longest block of rows at the base, by the way of small batches and of large matrices."""

from __future__ import annotations

import pytest
import torch

from ckptaudit.metrics.batch import PairBatch
from ckptaudit.metrics.large import LargePair
from ckptaudit.metrics.unchanged_rows import unchanged_rows


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("share", [1e-4, 0.01, 0.5])
def test_the_block_is_the_longest_between_rows_that_differ(dtype: torch.dtype, share: float) -> None:
    random = torch.Generator().manual_seed(int(1 / share))
    base = torch.randn(300, 200, generator=random).to(dtype)
    tuned = torch.where(torch.rand(base.shape, generator=random) < share, 2 * base, base)
    tuned[40:90] = base[40:90]
    best = run = 0
    for same in (base == tuned).all(dim=1).tolist():
        run = run + 1 if same else 0
        best = max(best, run)
    assert unchanged_rows(LargePair(base, tuned)).tolist() == [best]
    assert unchanged_rows(PairBatch(base[None], tuned[None])).tolist() == [best]


def test_equal_and_wholly_different_matrices() -> None:
    base = torch.ones(2, 5, 3)
    tuned = torch.stack([base[0], 2 * base[1]])
    assert unchanged_rows(PairBatch(base, tuned)).tolist() == [5, 0]
