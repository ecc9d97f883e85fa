"""Hidden states of prompts, pooled over their tokens, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ckptaudit.behavior.batching import Ids, batch_tokens, by_length, in_batches, right_padded
from ckptaudit.behavior.causal_models import CausalModel
from ckptaudit.behavior.scoring import Array


@dataclass(frozen=True)
class PooledStates:
    """`mean` over a prompt's tokens, and `last` token's, each `[prompts, layers + 1, width]` in float32.

    Layer 0 holds the embeddings.
    """

    mean: Array
    last: Array


def pooled_states(
    model: CausalModel, prompts: Sequence[Ids], *, alike: bool = False, done: Callable[[int], None] | None = None
) -> PooledStates:
    """States of every prompt, in the given order. `done` is told the tokens of each. Raises MeasurementError."""
    batches = by_length(prompts, batch_tokens(model.device), alike=alike)
    found = {}
    for index, one in in_batches(batches, lambda batch: _pooled(model, [prompts[i] for i in batch])):
        found[index] = one
        if done is not None:
            done(len(prompts[index]))
    mean, last = zip(*(found[index] for index in range(len(prompts))), strict=True)
    return PooledStates(np.stack(mean), np.stack(last))


def _pooled(model: CausalModel, prompts: Sequence[Ids]) -> list[tuple[Array, Array]]:
    ids, mask = right_padded(prompts, model.device)
    layers = [_of_layer(layer, mask) for layer in model.states(ids, mask)]
    mean, last = (torch.stack(column, dim=1).cpu().numpy() for column in zip(*layers, strict=True))
    return list(zip(mean, last, strict=True))


def _of_layer(
    layer: Float[Tensor, "b t d"], mask: Int[Tensor, "b t"]
) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
    weights = mask[:, :, None].float()
    lengths = mask.sum(dim=1)
    mean = (layer.float() * weights).sum(dim=1) / lengths[:, None]
    rows = torch.arange(len(layer), device=layer.device)
    return mean, layer[rows, lengths - 1].float()
