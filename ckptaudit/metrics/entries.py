"""What a pass over the entries gives: how many changed, how large the update is, whether all is finite."""

from __future__ import annotations

from torch import Tensor

from ckptaudit.linalg.spectra import relative_distance
from ckptaudit.metrics.batch import PairBatch
from ckptaudit.metrics.matrix import metric


@metric(
    unit="1",
    scale="share",
    formula="1 - |M| / (m n), M = {ij : |w1 - w0| > eta max(|w0|, |w1|)} after casting both to bf16, eta = 1e-3",
    source="arXiv:2606.07082, C.3, after arXiv:2511.08567",
    needs="entries",
)
def update_sparsity(batch: PairBatch) -> Tensor:
    """Share of entries that the update leaves bitwise equal in bf16; 1 for a zero update."""
    return 1.0 - batch.changed_count / max(1, batch.m * batch.n)


@metric(
    unit="entries",
    scale="count",
    formula="|M|, with M the bf16-visible update mask",
    source="arXiv:2606.07082, C.3",
    needs="entries",
)
def changed_entries(batch: PairBatch) -> Tensor:
    """Number of entries that the update changes visibly in bf16; the sample behind the overlaps."""
    return batch.changed_count


@metric(
    unit="entries",
    scale="count",
    formula="#{ij : w1 != w0} as stored; a NaN differs from everything",
    source="definition",
    needs="entries",
    tolerates_nonfinite=True,
)
def differing_entries(batch: PairBatch) -> Tensor:
    """Number of entries whose stored values differ at all, however little."""
    return batch.differing_count


@metric(
    unit="1",
    scale="size",
    formula="norm_F(W1 - W0) / norm_F(W0); 0 for 0 / 0, 1 where only the base is zero",
    source="arXiv:2511.08567, Gate II (Mirsky)",
    needs="entries",
)
def relative_update_norm(batch: PairBatch) -> Tensor:
    """Size of the update against the size of the base."""
    return relative_distance(batch.update_norm, batch.base_norm)


@metric(
    unit="entries",
    scale="count",
    formula="#{ij : w1 is NaN or infinite}",
    source="definition",
    needs="entries",
    tolerates_nonfinite=True,
)
def nonfinite_entries(batch: PairBatch) -> Tensor:
    """Number of NaN and infinite entries on the tuned side."""
    return batch.nonfinite_count


@metric(
    unit="entries",
    scale="count",
    formula="#{ij : w0 is NaN or infinite}",
    source="definition",
    needs="entries",
    tolerates_nonfinite=True,
    standing=False,
)
def base_nonfinite_entries(batch: PairBatch) -> Tensor:
    """Number of NaN and infinite entries on the base side, against which nothing can be held."""
    return batch.base_nonfinite_count


@metric(
    unit="1",
    scale="share",
    formula="|L & M| / |M|, L = the floor(alpha m n) smallest |w0|, alpha = 0.5; alpha where M is empty",
    source="arXiv:2606.07082, 3.2",
    needs="matrix",
)
def low_magnitude_overlap(batch: PairBatch) -> Tensor:
    """Of the visibly changed entries, the share among the base's smallest; the random baseline is alpha."""
    return batch.low_magnitude_share
