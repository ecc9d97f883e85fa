"""Rows of a model that stays the same from run to run, kept by what they were computed from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from blake3 import blake3
from torch import Tensor

from ckptaudit.behavior.causal_models import CausalModel
from ckptaudit.behavior.generation import Answer, Request, Setting, generate
from ckptaudit.behavior.scoring import Scored, ScoredText, score

Rows = Mapping[str, Tensor]
Lookup = Callable[[str], "Kept | None"]
"""By key, what is kept; None where nothing is."""

VERSION = "behavior rows 1"


class Kept:
    """A place for the rows of one key: what is there, and a way to put something there."""

    def __init__(self, found: Rows | None, keep: Callable[[Rows], None]) -> None:
        self.found, self.keep = found, keep


def unkept(key: str) -> Kept | None:
    """No rows are kept."""
    return None


def scored_rows(model: CausalModel, texts: Sequence[Scored], lookup: Lookup, **how: Any) -> list[ScoredText]:
    """Scores of every text, those that are kept read and the others computed and kept."""
    keys = [_key(model, "score", text.ids, text.start) for text in texts]
    kept = [lookup(key) for key in keys]
    missing = [i for i, place in enumerate(kept) if place is None or place.found is None]
    fresh = dict(zip(missing, score(model, [texts[i] for i in missing], **how), strict=True))
    for index, row in fresh.items():
        place = kept[index]
        if place is not None:
            columns = (row.log_p, row.rank.astype("float64"), row.entropy)
            place.keep({"rows": torch.stack([torch.from_numpy(column) for column in columns])})
    return [fresh.get(index) or _scored(kept[index]) for index in range(len(texts))]


def spoken_rows(
    model: CausalModel,
    requests: Sequence[Request],
    setting: Setting,
    lookup: Lookup,
    *,
    most: int,
    seed: int,
    **how: Any,
) -> list[Answer]:
    """Answers to every request, those that are kept read and the others generated and kept."""
    keys = [
        _key(model, "answer", r.ids, (r.name, r.sample, setting, most, seed, model.end_tokens)) for r in requests
    ]
    kept = [lookup(key) for key in keys]
    missing = [i for i, place in enumerate(kept) if place is None or place.found is None]
    made = generate(model, [requests[i] for i in missing], setting, most=most, seed=seed, **how)
    fresh = dict(zip(missing, made, strict=True))
    for index, answer in fresh.items():
        place = kept[index]
        if place is not None:
            place.keep({"ids": torch.tensor(answer.ids), "ended": torch.tensor([answer.stop == "end"])})
    return [fresh.get(index) or _answer(kept[index]) for index in range(len(requests))]


def _scored(place: Kept | None) -> ScoredText:
    assert place is not None  # what is neither computed nor kept does not occur
    assert place.found is not None
    log_p, rank, entropy = place.found["rows"].numpy()
    return ScoredText(log_p, rank, entropy)


def _answer(place: Kept | None) -> Answer:
    assert place is not None  # as above
    assert place.found is not None
    return Answer(tuple(place.found["ids"].tolist()), "end" if bool(place.found["ended"]) else "length")


def _key(model: CausalModel, what: str, ids: Sequence[int], more: object) -> str:
    return blake3(repr((VERSION, model.digest, what, tuple(ids), more)).encode()).hexdigest()
