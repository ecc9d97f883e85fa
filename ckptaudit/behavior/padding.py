"""Whether padding changes what a model computes, and how much rounding alone moves a divergence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ckptaudit.behavior.batching import left_padded
from ckptaudit.behavior.causal_models import CausalModel
from ckptaudit.behavior.comparison import at_positions
from ckptaudit.behavior.packs import Pack, predictions
from ckptaudit.behavior.scoring import Scored, chunks, score

AGREEMENT = 1e-2
"""How far a log-probability may be off, in nats, beside padding: rounding stays below, seen padding does not.

bfloat16 rounds at this size; float32 a thousand times finer.
"""

TRIED = 4
"""Texts that the floor is measured on."""

WIDER = 7
"""Tokens of padding before the longest of them."""


def padding_is_seen(model: CausalModel, texts: Sequence[Scored]) -> bool:
    """Whether the shortest text reads otherwise beside the longest than alone."""
    ordered = sorted(texts, key=lambda text: len(text.ids))
    short, long = ordered[0], ordered[-1]
    if len(short.ids) == len(long.ids):
        return False
    alone, beside = score(model, [short])[0], score(model, [short, long])[0]
    return bool(np.abs(alone.log_p - beside.log_p).max() > AGREEMENT)


def rounding_floor(model: CausalModel, texts: Sequence[Scored]) -> float:
    """Mean KL, in nats per token, of the model against itself under another padding: what rounding comes to."""
    chosen = sorted(texts, key=lambda text: len(text.ids))[:: max(1, len(texts) // TRIED)][:TRIED]
    width = max(len(text.ids) for text in chosen) + WIDER
    ids, mask = left_padded([text.ids for text in chosen], model.device, width)
    together = model.hidden(ids, mask, (mask.cumsum(dim=1) - 1).clamp_min(0))
    found = []
    for row, text in enumerate(chosen):
        alone, wanted = predictions(model, [Pack((text,))])
        moved = width - len(text.ids)
        beside = together[row, moved + text.positions.start : moved + text.positions.stop]
        for a, b, w in chunks(model, alone, beside, wanted):
            found.append(at_positions(model.logits(a), model.logits(b), w)["kl_tuned_base"])
    return max(0.0, float(torch.cat(found).mean()))
