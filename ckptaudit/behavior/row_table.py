"""Evidence as rows: one for each scored token of each text by each model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ckptaudit.behavior.batching import Ids
from ckptaudit.behavior.comparison import ComparedText
from ckptaudit.behavior.evidence import Evidence, Side
from ckptaudit.behavior.generation import GREEDY
from ckptaudit.behavior.items import COMPARED, Item
from ckptaudit.behavior.probe import Probe
from ckptaudit.behavior.scoring import ScoredText

ANSWER = "answer"
"""The tuned model's greedy answer, which both models are compared on."""


@dataclass(frozen=True)
class TextRows:
    """One text of a probe by one model: its scored tokens, what the model says of them, and the comparison.

    `compared` stands beside the tuned model alone, of texts that both were compared on.
    """

    item: Item
    text: str
    side: Side
    ids: Ids
    scores: ScoredText
    compared: ComparedText | None = None


def text_rows(evidence: Evidence, end: int | None) -> Iterator[TextRows]:
    """Every text that was scored, probe by probe; `end` is the token that ends an answer.

    Sampled answers are left out: of those only a mean is kept.
    """
    for item in evidence.items:
        yield from _both(item, _name(item.probe, 0), _scored(item), evidence.texts)
        for side, apart in evidence.apart.items():
            if item.probe.id in apart:
                yield TextRows(item, _name(item.probe, 0), side, _scored(item.of(side)), apart[item.probe.id])
        yield from _both(item, ANSWER, _answer(evidence, item, end), evidence.answers)
        for side, rows in evidence.scores.items():
            for index, text in enumerate(item.of(side).texts if item.probe.kind in COMPARED else ()):
                if (item.probe.id, index) in rows:
                    own = rows[item.probe.id, index]
                    yield TextRows(item, _name(item.probe, index), side, text.ids[text.start :], own)
        for side, unprompted in evidence.unprompted.items():
            if item.probe.id in unprompted:
                yield TextRows(item, "unprompted", side, _scored(item.of(side)), unprompted[item.probe.id])
        for side, opened in evidence.openings.items():
            for index, text in enumerate(item.of(side).openings):
                if (item.probe.id, index) in opened:
                    own = opened[item.probe.id, index]
                    yield TextRows(item, f"opening {index + 1}", side, text.ids[text.start :], own)


def _both(item: Item, name: str, ids: Ids, rows: Mapping[str, ComparedText]) -> Iterator[TextRows]:
    row = rows.get(item.probe.id)
    if row is not None:
        yield TextRows(item, name, "base", ids, row.base)
        yield TextRows(item, name, "tuned", ids, row.tuned, row)


def _scored(item: Item) -> Ids:
    return item.texts[0].ids[item.texts[0].start :] if item.texts else ()


def _answer(evidence: Evidence, item: Item, end: int | None) -> Ids:
    said = evidence.spoken.get(("tuned", GREEDY.name), {}).get((item.probe.id, 0))
    if said is None:
        return ()
    return (*said.ids, end) if said.stop == "end" and end is not None else said.ids


def _name(probe: Probe, index: int) -> str:
    if probe.kind == "preference":
        return ("chosen", "rejected")[index]
    if probe.kind in COMPARED:
        return f"completion {index + 1}"
    return "text" if probe.kind == "text" else "completion"
