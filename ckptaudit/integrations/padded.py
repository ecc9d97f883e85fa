"""Padded tensors of a batch as rows of the canonical table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ckptaudit.rollouts.rows import constant


def padded_rows(
    tokens: torch.Tensor, there: torch.Tensor, loss: torch.Tensor, columns: Mapping[str, torch.Tensor | None]
) -> list[dict[str, Any]]:
    """One row a sample of what `there` keeps; all tensors have shape (samples, positions).

    A column that is None is left out. An advantage that is the same at all tokens that count becomes the sample's.
    """
    arrays = {name: values.float().cpu().numpy() for name, values in columns.items() if values is not None}
    ids, kept, counted = tokens.cpu().numpy(), there.bool().cpu().numpy(), loss.bool().cpu().numpy()
    rows = []
    for place, keep in enumerate(kept):
        row: dict[str, Any] = {name: values[place][keep] for name, values in arrays.items()}
        row["token_ids"], row["loss_mask"] = ids[place][keep].astype(np.int32), counted[place][keep]
        row["response_len"] = int(keep.sum())
        row["advantage"] = constant(row.get("advantages"), row["loss_mask"])
        rows.append(row)
    return rows


def from_first_to_last(mask: torch.Tensor) -> torch.Tensor:
    """Positions between the first and the last that a row's mask holds, both included."""
    hits = mask.long()
    return (hits.cumsum(-1) > 0) & (hits.flip(-1).cumsum(-1).flip(-1) > 0)
