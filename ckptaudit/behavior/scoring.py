"""What one model says of given texts, token by token: log-probability, rank, entropy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ckptaudit.behavior.batching import Ids, batch_tokens, by_length, in_batches, right_padded
from ckptaudit.behavior.causal_models import CausalModel

CHUNK_BYTES = 32 * 2**20
"""Bytes of the logits that stand at once, or those of `LEAST` positions: the head is read for each piece."""

LEAST = 64

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


@dataclass(frozen=True)
class Scored:
    """A text's ids; those from `start` on are scored, each given all that stands before it."""

    ids: Ids
    start: int

    @property
    def positions(self) -> range:
        """Where the predictions of the scored tokens stand."""
        return range(self.start - 1, len(self.ids) - 1)


def score(
    model: CausalModel, texts: Sequence[Scored], *, alike: bool = False, done: Callable[[int], None] | None = None
) -> list[ScoredText]:
    """Score every text, in the given order.

    Distributions in the precision of the logits, float32 at least. With `alike` no text is padded.
    `done` is told the tokens of each text that is finished. Raises MeasurementError.
    """
    batches = by_length([text.ids for text in texts], batch_tokens(model.device), alike=alike)
    found: dict[int, ScoredText] = {}
    for index, one in in_batches(batches, lambda batch: _scored(model, [texts[i] for i in batch])):
        found[index] = one
        if done is not None:
            done(len(texts[index].ids))
    return [found[index] for index in range(len(texts))]


def _scored(model: CausalModel, texts: Sequence[Scored]) -> list[ScoredText]:
    hidden, wanted = predictions(model, texts)
    parts = [_of_chunk(model.logits(h), w) for h, w in chunks(model, hidden, wanted)]
    columns = [torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)]
    return [ScoredText(*(c[at] for c in columns)) for at in places(texts)]


def predictions(model: CausalModel, texts: Sequence[Scored]) -> tuple[Float[Tensor, "n d"], Int[Tensor, "n"]]:
    """The hidden states that predict the scored tokens, text after text, and those tokens."""
    ids, _ = right_padded([text.ids for text in texts], model.device)
    hidden = model.hidden(ids, None)
    rows = [hidden[row, text.positions.start : text.positions.stop] for row, text in enumerate(texts)]
    wanted = [torch.tensor(text.ids[text.start :], device=model.device) for text in texts]
    return torch.cat(rows), torch.cat(wanted)


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
