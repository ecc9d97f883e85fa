"""Rows of a vocabulary that one side alone has: cut, or new."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ckptaudit.findings import Finding
from ckptaudit.metrics.coverage import BEYOND
from ckptaudit.metrics.findings import findings_metric
from ckptaudit.pairing import ModelPair

LARGER = 10.0
"""A new row this many times longer than the base's usual row is no embedding of the same model."""


@findings_metric(
    scope="pair",
    unit="tensors",
    formula=f"#{{vocabularies with rows lost, not finite, or over {LARGER:g} median row norms}}",
)
def vocabulary_rows(pair: ModelPair) -> list[Finding]:
    """Vocabularies that were cut, and new rows that are not finite or not of the size of the old ones.

    New rows of zeros are padding and pass. Raises CheckpointError if a file is damaged.
    """
    return [found for u in pair.unaligned if u.fault == BEYOND for found in _faults(pair, u.tensor)]


def _faults(pair: ModelPair, name: str) -> Iterator[Finding]:
    old = pair.base.tensors[name]
    new = next(t.tuned for t in pair.aligned if t.name == name or t.name.startswith(f"{name}["))
    stored = pair.tuned.tensors.get(name) or pair.tuned.tensors[new.name]
    before, after = old.shape[0], stored.shape[0]
    if after < before:
        lost = f"{before - after} of {before} rows of the base are lost"
        yield Finding(name, "vocabulary cut", f"{lost}; export the model with its whole vocabulary")
        return
    rows = stored.read()[before:].flatten(1).float()
    bad = int((~rows.isfinite()).any(dim=1).sum())
    if bad:
        yield Finding(name, "new rows not finite", f"{bad} of {after - before} new rows hold NaN or infinity")
        return
    longest, usual = float(_norms(rows).max()), float(_norms(old.read().flatten(1).float()).median())
    if longest > LARGER * usual:
        yield Finding(
            name,
            "new rows too large",
            f"the longest of {after - before} new rows has norm {longest:.4g}, the base's median row {usual:.4g}; "
            "initialise new rows like the old ones",
        )


def _norms(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms
