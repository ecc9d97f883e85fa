"""Two models on the same tokens, position by position, over the complete vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ckptaudit.behavior.batching import batch_tokens, by_length, in_batches
from ckptaudit.behavior.causal_models import CausalModel
from ckptaudit.behavior.packs import Pack, predictions
from ckptaudit.behavior.scoring import Array, Scored, ScoredText, chunks, places


@dataclass(frozen=True)
class ComparedText:
    """Both models at each scored token of one text, the context the same.

    `kl_tuned_base` = sum_v t(v) log(t(v)/b(v)), `kl_base_tuned` the other way round, in nats; `total_variation` =
    1/2 sum_v |t(v) - b(v)|; `agree` says whether both have the same most likely token, and `base_rank` is the rank
    in the base of the tuned model's. The rest is of the text's own token, and of each model's distribution.
    """

    kl_tuned_base: Array
    kl_base_tuned: Array
    total_variation: Array
    agree: Array
    base_rank: Array
    log_p_base: Array
    log_p_tuned: Array
    rank_base: Array
    rank_tuned: Array
    entropy_base: Array
    entropy_tuned: Array

    @property
    def base(self) -> ScoredText:
        """The base's scores of the text."""
        return ScoredText(self.log_p_base, self.rank_base, self.entropy_base)

    @property
    def tuned(self) -> ScoredText:
        """The tuned model's scores of the text."""
        return ScoredText(self.log_p_tuned, self.rank_tuned, self.entropy_tuned)


COLUMNS = tuple(f.name for f in fields(ComparedText))


def compare(
    base: CausalModel,
    tuned: CausalModel,
    texts: Sequence[Scored],
    *,
    alike: bool = False,
    done: Callable[[int], None] | None = None,
) -> list[ComparedText]:
    """Both models on every text, in the given order.

    Forward passes in the models' own precision, distributions and sums in float64, a piece of positions at a time.
    Where one vocabulary is longer, both are taken over the common ids and renormalised. Raises MeasurementError.
    """
    batches = by_length([text.ids for text in texts], batch_tokens(base.device), alike=alike)
    found: dict[int, ComparedText] = {}
    for index, one in in_batches(batches, lambda batch: _compared(base, tuned, [texts[i] for i in batch])):
        found[index] = one
        if done is not None:
            done(2 * len(texts[index].ids))
    return [found[index] for index in range(len(texts))]


def _compared(base: CausalModel, tuned: CausalModel, texts: Sequence[Scored]) -> list[ComparedText]:
    rows = [Pack((text,)) for text in texts]
    (of_base, wanted), (of_tuned, _) = predictions(base, rows), predictions(tuned, rows)
    common = min(base.vocabulary, tuned.vocabulary)
    pieces = [
        at_positions(base.logits(b)[:, :common], tuned.logits(t)[:, :common], w)
        for b, t, w in chunks(base, of_base, of_tuned, wanted)
    ]
    columns = {name: torch.cat([piece[name] for piece in pieces]).cpu().numpy() for name in COLUMNS}
    return [ComparedText(**{name: column[at] for name, column in columns.items()}) for at in places(texts)]


def at_positions(
    base: Float[Tensor, "n v"], tuned: Float[Tensor, "n v"], wanted: Int[Tensor, "n"]
) -> dict[str, Float[Tensor, "n"]]:
    """Every column of `ComparedText` from the two models' logits, and the ids of the text's own tokens."""
    b, t = base.double().log_softmax(dim=1), tuned.double().log_softmax(dim=1)
    p, q = t.exp(), b.exp()
    ratio = t - b
    top_base, top_tuned = b.argmax(dim=1), t.argmax(dim=1)
    at_b, at_t = (m.gather(1, wanted[:, None]) for m in (b, t))
    return {
        "kl_tuned_base": _expected(p, ratio),
        "kl_base_tuned": _expected(q, -ratio),
        "total_variation": (p - q).abs().sum(dim=1) / 2,
        "agree": (top_base == top_tuned).double(),
        "base_rank": _rank(b, b.gather(1, top_tuned[:, None])),
        "log_p_base": at_b[:, 0],
        "log_p_tuned": at_t[:, 0],
        "rank_base": _rank(b, at_b),
        "rank_tuned": _rank(t, at_t),
        "entropy_base": -_expected(q, b),
        "entropy_tuned": -_expected(p, t),
    }


def _expected(weights: Float[Tensor, "n v"], values: Float[Tensor, "n v"]) -> Float[Tensor, "n"]:
    """The sum of p f; where p is 0 the term is 0, whatever f is."""
    return torch.where(weights > 0, weights * values, 0.0).sum(dim=1)


def _rank(log_p: Float[Tensor, "n v"], own: Float[Tensor, "n 1"]) -> Float[Tensor, "n"]:
    return ((log_p > own).sum(dim=1) + 1).double()


def mean_kl(texts: Sequence[ComparedText]) -> float:
    """Mean of KL(tuned, base) over all tokens of all texts, in nats per token."""
    return float(np.concatenate([text.kl_tuned_base for text in texts]).mean())
