"""Texts that begin alike as one row: what they have in common is run once, what follows of each behind it.

    prefix  a a a a   b b   c c c
    sees    prefix    prefix and b   prefix and c

Positions of every continuation go on where the prefix ends, and none sees another: the model reads each as if it
stood alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ckptaudit.behavior.batching import Ids, right_padded
from ckptaudit.behavior.causal_models import CausalModel

WORTH = 0.4
"""Texts share a row where the tokens that this saves are at least such a part of the row, whose mask costs time."""


@dataclass(frozen=True)
class Scored:
    """A text's ids; those from `start` on are scored, each given all that stands before it."""

    ids: Ids
    start: int

    @property
    def positions(self) -> range:
        """Where the predictions of the scored tokens stand."""
        return range(self.start - 1, len(self.ids) - 1)

    @property
    def prefix(self) -> Ids:
        """What stands before the first scored token."""
        return self.ids[: self.start]


@dataclass(frozen=True)
class Pack:
    """Texts with one prefix. The last token of each predicts nothing that is scored, and is left out."""

    texts: tuple[Scored, ...]

    @cached_property
    def ids(self) -> Ids:
        """The prefix, and what follows of each text."""
        tails = (token for text in self.texts for token in text.ids[text.start : -1])
        return (*self.texts[0].prefix, *tails)

    @property
    def alone(self) -> bool:
        """Whether it holds a single text, as any row does."""
        return len(self.texts) == 1

    @cached_property
    def positions(self) -> Ids:
        """The position of each token in its own text."""
        tails = (at for text in self.texts for at in range(text.start, len(text.ids) - 1))
        return (*range(self.texts[0].start), *tails)

    @cached_property
    def owners(self) -> Ids:
        """For each token which text it belongs to, from 1 on; 0 is the prefix."""
        tails = (n for n, text in enumerate(self.texts, start=1) for _ in range(text.start, len(text.ids) - 1))
        return (*(0,) * self.texts[0].start, *tails)

    @cached_property
    def predicting(self) -> list[int]:
        """Where in the row the predictions stand, text after text."""
        found, at = [], self.texts[0].start
        for text in self.texts:
            following = len(text.ids) - 1 - text.start
            found += [text.start - 1, *range(at, at + following)]
            at += following
        return found


def packed(texts: Sequence[Scored], most: int) -> list[list[int]]:
    """Indices of texts in packs of at most `most` tokens; a text that shares too little stands alone."""
    groups: dict[Ids, list[int]] = {}
    for index, text in enumerate(texts):
        groups.setdefault(text.prefix, []).append(index)
    return [pack for prefix, group in groups.items() for pack in _cut(texts, len(prefix), group, most)]


def _cut(texts: Sequence[Scored], prefix: int, group: Sequence[int], most: int) -> Iterator[list[int]]:
    pack: list[int] = []
    length = prefix
    for index in group:
        tail = len(texts[index].ids) - 1 - prefix
        if pack and length + tail > most:
            yield from _settled(pack, prefix, length)
            pack, length = [], prefix
        pack.append(index)
        length += tail
    yield from _settled(pack, prefix, length)


def _settled(pack: list[int], prefix: int, length: int) -> Iterator[list[int]]:
    saved = (len(pack) - 1) * prefix
    yield from [pack] if saved >= WORTH * length else [[index] for index in pack]


def predictions(model: CausalModel, packs: Sequence[Pack]) -> tuple[Float[Tensor, "n d"], Int[Tensor, "n"]]:
    """The hidden states that predict the scored tokens, text after text, and those tokens."""
    ids, _ = right_padded([pack.ids for pack in packs], model.device)
    hidden = model.hidden(ids, None) if all(pack.alone for pack in packs) else _hidden_apart(model, packs, ids)
    width = ids.shape[1]
    at = [row * width + place for row, pack in enumerate(packs) for place in pack.predicting]
    wanted = [token for pack in packs for text in pack.texts for token in text.ids[text.start :]]
    return hidden.flatten(0, 1)[torch.tensor(at, device=model.device)], torch.tensor(wanted, device=model.device)


def _hidden_apart(model: CausalModel, packs: Sequence[Pack], ids: Int[Tensor, "b t"]) -> Float[Tensor, "b t d"]:
    width = ids.shape[1]
    positions, _ = right_padded([pack.positions for pack in packs], model.device)
    # Padding belongs to nobody, and sees the prefix and itself: a row that sees nothing would turn into NaN.
    owners = torch.full(ids.shape, -1)
    for row, pack in enumerate(packs):
        owners[row, : len(pack.owners)] = torch.tensor(pack.owners)
    owners = owners.to(model.device)
    earlier = torch.ones((width, width), dtype=torch.bool, device=model.device).tril()
    seen = earlier & ((owners[:, None, :] == 0) | (owners[:, None, :] == owners[:, :, None]))
    dtype = model.network.dtype
    mask = torch.zeros(seen.shape, dtype=dtype, device=model.device).masked_fill(~seen, torch.finfo(dtype).min)
    return model.hidden(ids, mask[:, None], positions)
