"""Answers of a model to prompts: greedy or sampled, the same text whatever stands in the same batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ckptaudit.behavior.batching import Ids, by_length, in_batches, left_padded
from ckptaudit.behavior.causal_models import CausalModel

Stop = Literal["end", "length"]

TOKENS = 4096
"""Tokens of one batch of prompts."""


@dataclass(frozen=True)
class Setting:
    """How the next token is chosen. Temperature 0 is greedy; `top_k` 0 and `top_p` 1 leave all tokens."""

    name: str
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0


GREEDY = Setting("greedy")
SAMPLED = Setting("sampled", temperature=1.0)


@dataclass(frozen=True)
class Request:
    """One answer that is wanted: after which ids, how, and under which name its random numbers are drawn."""

    ids: Ids
    name: str
    sample: int = 0
    setting: Setting = GREEDY


@dataclass(frozen=True)
class Answer:
    """The tokens of an answer without its end token, and why it stopped."""

    ids: Ids
    stop: Stop

    @property
    def length(self) -> int:
        """Tokens, the end token counted."""
        return len(self.ids) + (self.stop == "end")


def generate(
    model: CausalModel,
    requests: Sequence[Request],
    *,
    most: int,
    seed: int = 0,
    alike: bool = False,
    done: Callable[[int, int], None] | None = None,
) -> list[Answer]:
    """An answer to every request, of at most `most` tokens and within the model's context; settings may differ.

    A sampled token is the first whose cumulative probability passes a uniform number; the numbers of an answer hang
    on seed, name, setting and sample alone. Prompts are padded on the left, or with `alike` not at all. `done` is
    told the tokens of each prompt that is answered, and of its answer.
    """
    lengths = [len(request.ids) for request in requests]
    tight = [i for i, length in enumerate(lengths) if length + most > model.context]
    roomy = [i for i, length in enumerate(lengths) if length + most <= model.context]
    # A long prompt leaves its answer less room than a short one has: side by side, both would be cut alike.
    batches = [*_batches(requests, roomy, alike=alike), *_batches(requests, tight, alike=True)]
    found: dict[int, Answer] = {}

    def run(batch: Sequence[int]) -> list[Answer]:
        return _answers(model, [requests[i] for i in batch], most, seed)

    for index, answer in in_batches(batches, run):
        found[index] = answer
        if done is not None:
            done(len(requests[index].ids), answer.length)
    return [found[index] for index in range(len(requests))]


def _batches(requests: Sequence[Request], chosen: Sequence[int], *, alike: bool) -> list[list[int]]:
    grouped = by_length([requests[i].ids for i in chosen], TOKENS, alike=alike)
    return [[chosen[i] for i in batch] for batch in grouped]


def _answers(model: CausalModel, requests: Sequence[Request], most: int, seed: int) -> list[Answer]:
    from transformers import GenerationConfig, LogitsProcessorList

    longest = max(len(request.ids) for request in requests)
    room = min(most, model.context - longest)
    if room < 1:
        return [Answer((), "length") for _ in requests]
    ids, mask = left_padded([request.ids for request in requests], model.device)
    ends = [token for token in model.end_tokens if token < model.vocabulary]
    make: Any = GenerationConfig
    config = make(
        max_new_tokens=room,
        do_sample=False,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
    )
    sampled = any(request.setting.temperature for request in requests)
    chosen = LogitsProcessorList([_Sampler(requests, seed)] if sampled else [])
    # What the checkpoint asks of its own decoding (penalties, a temperature) is no setting of ours.
    model.network.generation_config = config
    with torch.no_grad():
        out = model.network.generate(ids, attention_mask=mask, generation_config=config, logits_processor=chosen)
    return [_ended(row[longest:].tolist(), ends) for row in out.cpu()]


def _ended(tokens: list[int], ends: Sequence[int]) -> Answer:
    at = next((i for i, token in enumerate(tokens) if token in ends), None)
    return Answer(tuple(tokens), "length") if at is None else Answer(tuple(tokens[:at]), "end")


class _Sampler:
    """Leaves each row one token to choose: the likeliest, or one drawn with the row's own random numbers."""

    def __init__(self, requests: Sequence[Request], seed: int) -> None:
        self._rows: dict[Setting, list[int]] = {}
        for row, request in enumerate(requests):
            if request.setting.temperature:
                self._rows.setdefault(request.setting, []).append(row)
        self._streams = [np.random.Generator(np.random.Philox(key=_key(r, seed))) for r in requests]

    def __call__(self, ids: Tensor, scores: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
        chosen = scores.argmax(dim=1)
        for setting, rows in self._rows.items():
            uniform = torch.tensor([self._streams[row].random() for row in rows], dtype=torch.float64)
            at = torch.tensor(rows, device=scores.device)
            chosen[at] = draw(scores[at], setting, uniform.to(scores.device))
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)


def draw(scores: Float[Tensor, "b v"], setting: Setting, uniform: Float[Tensor, "b"]) -> Int[Tensor, "b"]:
    """The token of each row at which the cumulative probability passes `uniform`, tokens by falling probability."""
    ordered, tokens = (scores.double() / setting.temperature).sort(dim=1, descending=True, stable=True)
    probability = ordered.softmax(dim=1)
    if setting.top_k:
        probability[:, setting.top_k :] = 0.0
    # The token that passes top_p is the last one in.
    probability[probability.cumsum(dim=1) - probability >= setting.top_p] = 0.0
    reached = probability.cumsum(dim=1)
    passed = reached > uniform[:, None] * reached[:, -1:]
    return tokens.gather(1, passed.double().argmax(dim=1)[:, None])[:, 0]


def _key(request: Request, seed: int) -> Any:
    text = repr((seed, request.name, request.setting, request.sample)).encode()
    return np.frombuffer(blake2b(text, digest_size=16).digest(), dtype=np.uint64)
