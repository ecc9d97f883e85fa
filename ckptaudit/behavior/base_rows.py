"""Rows of a model that stays the same from run to run, kept by what they were computed from.

An entry holds all texts of one prompt, or all samples of one: files of a few hundred bytes each would take longer
to open than the model takes to run.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

from ckptaudit.behavior.causal_models import CausalModel
from ckptaudit.behavior.generation import Answer, Request, generate
from ckptaudit.behavior.packs import Scored
from ckptaudit.behavior.scoring import ScoredText, score

Rows = Mapping[str, Tensor]
Lookup = Callable[[str], "Kept | None"]
"""By key, what is kept; None where nothing is."""

VERSION = "behavior rows 2"

Asked = TypeVar("Asked")
Row = TypeVar("Row")


class Kept:
    """A place for the rows of one key: what is there, and a way to put something there."""

    def __init__(self, found: Rows | None, keep: Callable[[Rows], None]) -> None:
        self.found, self.keep = found, keep


def unkept(key: str) -> Kept | None:
    """No rows are kept."""
    return None


def scored_rows(
    model: CausalModel, texts: Sequence[Scored], lookup: Lookup, *, alike: bool, done: Callable[[int], None]
) -> list[ScoredText]:
    """Scores of every text, those that are kept read and the others computed and kept."""

    def run(missing: Sequence[Scored]) -> list[ScoredText]:
        return score(model, missing, share=True, alike=alike, done=done)

    def unpack(kept: Rows, group: Sequence[Scored]) -> list[ScoredText]:
        done(sum(len(text.ids) for text in group))
        return _scored(kept, group)

    def place(group: Sequence[Scored]) -> Kept | None:
        return lookup(_key(model, "score", [(text.ids, text.start) for text in group]))

    groups = _grouped(texts, lambda text: text.prefix)
    return _rows(texts, groups, place, run, _columns, unpack)


def spoken_rows(
    model: CausalModel,
    requests: Sequence[Request],
    lookup: Lookup,
    *,
    most: int,
    seed: int,
    alike: bool,
    done: Callable[[int, int], None],
) -> list[Answer]:
    """Answers to every request, those that are kept read and the others generated and kept."""

    def run(missing: Sequence[Request]) -> list[Answer]:
        return generate(model, missing, most=most, seed=seed, alike=alike, done=done)

    def unpack(kept: Rows, group: Sequence[Request]) -> list[Answer]:
        answers = _answers(kept)
        for request, answer in zip(group, answers, strict=True):
            done(len(request.ids), answer.length)
        return answers

    def place(group: Sequence[Request]) -> Kept | None:
        asked = [(r.ids, r.name, r.sample, r.setting) for r in group]
        return lookup(_key(model, "answer", (asked, most, seed, model.end_tokens)))

    groups = _grouped(requests, lambda request: (request.name, request.setting))
    return _rows(requests, groups, place, run, _said, unpack)


def _grouped(asked: Sequence[Asked], by: Callable[[Asked], Hashable]) -> list[list[int]]:
    groups: dict[Hashable, list[int]] = {}
    for index, one in enumerate(asked):
        groups.setdefault(by(one), []).append(index)
    return list(groups.values())


def _rows(
    asked: Sequence[Asked],
    groups: Sequence[Sequence[int]],
    place: Callable[[Sequence[Asked]], Kept | None],
    run: Callable[[Sequence[Asked]], list[Row]],
    packed: Callable[[Sequence[Row]], Rows],
    unpacked: Callable[[Rows, Sequence[Asked]], Iterable[Row]],
) -> list[Row]:
    """Every group's rows, those at its place or fresh ones, which are put there."""
    places = [place([asked[i] for i in group]) for group in groups]
    found: dict[int, Row] = {}
    missing: list[int] = []
    for group, kept in zip(groups, places, strict=True):
        if kept is None or kept.found is None:
            missing += group
        else:
            found |= zip(group, unpacked(kept.found, [asked[i] for i in group]), strict=True)
    fresh = dict(zip(missing, run([asked[i] for i in missing]) if missing else (), strict=True))
    for group, kept in zip(groups, places, strict=True):
        if kept is not None and kept.found is None:
            kept.keep(packed([fresh[i] for i in group]))
    found |= fresh
    return [found[index] for index in range(len(asked))]


def _columns(rows: Sequence[ScoredText]) -> Rows:
    columns = ([row.log_p, row.rank.astype("float64"), row.entropy] for row in rows)
    return {"rows": torch.from_numpy(np.concatenate([np.stack(one) for one in columns], axis=1))}


def _scored(kept: Rows, texts: Sequence[Scored]) -> list[ScoredText]:
    ends = np.cumsum([len(text.positions) for text in texts])[:-1]
    return [ScoredText(*columns) for columns in np.split(kept["rows"].numpy(), ends, axis=1)]


def _said(answers: Sequence[Answer]) -> Rows:
    return {
        "ids": torch.tensor([token for answer in answers for token in answer.ids], dtype=torch.long),
        "lengths": torch.tensor([len(answer.ids) for answer in answers]),
        "ended": torch.tensor([answer.stop == "end" for answer in answers]),
    }


def _answers(kept: Rows) -> list[Answer]:
    pieces = torch.split(kept["ids"], kept["lengths"].tolist())
    return [
        Answer(tuple(ids.tolist()), "end" if ended else "length")
        for ids, ended in zip(pieces, kept["ended"].tolist(), strict=True)
    ]


def _key(model: CausalModel, what: str, asked: object) -> str:
    return blake3(repr((VERSION, model.digest, what, asked)).encode()).hexdigest()
