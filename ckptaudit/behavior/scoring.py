"""What one model says of given texts, token by token: log-probability, rank, entropy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ckptaudit.behavior.batching import batch_tokens, by_length, in_batches, out_of_memory
from ckptaudit.behavior.causal_models import CausalModel
from ckptaudit.behavior.packs import Pack, Scored, packed, predictions

__all__ = ["Array", "Scored", "ScoredText", "as_columns", "chunks", "entropy_of", "places", "score"]

logger = logging.getLogger(__name__)

CHUNK_BYTES = 32 * 2**20
"""Bytes of the logits that stand at once, or those of `LEAST` positions: the head is read for each piece."""

LEAST = 64

SAME, SAME_HALF = 1e-3, 1e-2
"""How far a log-probability may be off, in nats, in a row of several texts: in float32, and in 16 bits."""

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class ScoredText:
    """A text's scored tokens in order: natural log-probability, rank (1 is the most likely), entropy in nats."""

    log_p: Array
    rank: Array
    entropy: Array

    @property
    def total(self) -> float:
        """L(y|x), the sum of the log-probabilities in nats."""
        return float(self.log_p.sum())

    @property
    def mean(self) -> float:
        """L(y|x) / |y| in nats per token."""
        return float(self.log_p.mean())


def score(
    model: CausalModel,
    texts: Sequence[Scored],
    *,
    alike: bool = False,
    share: bool = False,
    done: Callable[[int], None] | None = None,
) -> list[ScoredText]:
    """Score every text, in the given order.

    Distributions in the precision of the logits, float32 at least. With `alike` no text is padded. With `share`
    texts of one prompt stand in one row, where the longest such row reads as its texts do alone.
    `done` is told the tokens of each text that is finished. Raises MeasurementError.
    """
    rows = _rows(model, texts, share=share and not alike)
    packs = [Pack(tuple(texts[i] for i in row)) for row in rows]
    batches = by_length([pack.ids for pack in packs], batch_tokens(model.device), alike=alike)
    found: dict[int, ScoredText] = {}
    for index, several in in_batches(batches, lambda batch: _scored(model, [packs[i] for i in batch])):
        for own, one in zip(rows[index], several, strict=True):
            found[own] = one
            if done is not None:
                done(len(texts[own].ids))
    return [found[index] for index in range(len(texts))]


def _rows(model: CausalModel, texts: Sequence[Scored], *, share: bool) -> list[list[int]]:
    alone = [[index] for index in range(len(texts))]
    if not share:
        return alone
    rows = packed(texts, batch_tokens(model.device))
    several = [row for row in rows if len(row) > 1]
    if not several:
        return alone
    longest = max(several, key=lambda row: sum(len(texts[i].ids) for i in row))
    return rows if _read_as_alone(model, [texts[i] for i in longest]) else alone


def _read_as_alone(model: CausalModel, texts: Sequence[Scored]) -> bool:
    """Whether texts in one row read as they do alone: not where a state is carried on, or a window is short."""
    try:
        together = _scored(model, [Pack(tuple(texts))])[0]
    except (RuntimeError, ValueError, TypeError) as error:
        if isinstance(error, RuntimeError) and out_of_memory(error):
            return False
        logger.debug("texts of one prompt are run one by one", exc_info=True)
        return False
    apart = [_scored(model, [Pack((text,))])[0][0] for text in texts]
    most = SAME if model.network.dtype == torch.float32 else SAME_HALF
    return all(float(np.abs(a.log_p - b.log_p).max()) <= most for a, b in zip(together, apart, strict=True))


def _scored(model: CausalModel, packs: Sequence[Pack]) -> list[list[ScoredText]]:
    hidden, wanted = predictions(model, packs)
    parts = [_of_chunk(model.logits(h), w) for h, w in chunks(model, hidden, wanted)]
    columns = [torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)]
    found = iter([ScoredText(*(c[at] for c in columns)) for at in places([t for p in packs for t in p.texts])])
    return [[next(found) for _ in pack.texts] for pack in packs]


def places(texts: Sequence[Scored]) -> list[slice]:
    """Where each text's tokens stand among those of all."""
    ends = np.cumsum([0, *(len(text.positions) for text in texts)])
    return [slice(int(a), int(b)) for a, b in pairwise(ends)]


def chunks(model: CausalModel, *columns: Tensor) -> zip[tuple[Tensor, ...]]:
    """Columns in pieces such that the float64 logits of one fit `CHUNK_BYTES`, or of `LEAST` positions."""
    size = max(LEAST, CHUNK_BYTES // (8 * model.vocabulary))
    return zip(*(torch.split(column, size) for column in columns), strict=True)


def _of_chunk(logits: Float[Tensor, "n v"], wanted: Int[Tensor, "n"]) -> tuple[Tensor, Tensor, Tensor]:
    log_p = logits.log_softmax(dim=1)
    own = log_p.gather(1, wanted[:, None])
    # Counting in floating point is several times faster than adding truth values, and exact below 2^24 words.
    rank = (log_p > own).to(log_p.dtype).sum(dim=1).long() + 1
    return own[:, 0].double(), rank, entropy_of(log_p)


def entropy_of(log_p: Float[Tensor, "n v"]) -> Float[Tensor, "n"]:
    """H = -sum p log p in nats; where p is 0 the term is 0."""
    finite = log_p.clamp_min(torch.finfo(log_p.dtype).min)
    return -torch.einsum("nv,nv->n", finite.exp(), finite).double()


def as_columns(texts: Sequence[ScoredText]) -> dict[str, Array]:
    """All texts' tokens one after the other, a column for each quantity."""
    return {f.name: np.concatenate([getattr(text, f.name) for text in texts]) for f in fields(ScoredText)}
