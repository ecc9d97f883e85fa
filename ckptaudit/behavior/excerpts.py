"""The probes on which two models differ most, as words and numbers that a report can show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ckptaudit.behavior.comparison import ComparedText
from ckptaudit.behavior.evidence import Evidence
from ckptaudit.behavior.generation import GREEDY
from ckptaudit.behavior.items import Item
from ckptaudit.behavior.shown import BehaviorExcerpt, PositionCurve, ShownProbe, ShownToken

SHOWN = 12
"""Probes of one pair that are shown."""

LONGEST = 400
"""Characters of a prompt or an answer."""

TOKENS = 96
"""Tokens of a text."""

POSITIONS = 64
"""Positions of a curve."""

Decode = Callable[[Sequence[int]], str]


def excerpt(
    evidence: Evidence, decode: Decode, label: Callable[[Item], str], notes: Sequence[str]
) -> BehaviorExcerpt:
    """The worst probes and the curves of every set."""
    rows = [
        (item, row, True) for item in evidence.items if (row := evidence.answers.get(item.probe.id)) is not None
    ]
    rows += [
        (item, row, False)
        for item in evidence.items
        if (row := evidence.texts.get(item.probe.id)) is not None and item.probe.id not in evidence.answers
    ]
    worst = sorted(rows, key=lambda entry: -float(entry[1].kl_tuned_base.mean()))[:SHOWN]
    return BehaviorExcerpt(
        probes=len(evidence.items),
        floor=evidence.floor,
        notes=(*notes, *evidence.notes),
        curves=tuple(_curves(evidence)),
        shown=tuple(_shown(evidence, item, row, label(item), decode, of_answer=own) for item, row, own in worst),
    )


def _curves(evidence: Evidence) -> Iterator[PositionCurve]:
    for name in dict.fromkeys(item.set for item in evidence.items):
        for rows, of_answers in ((evidence.answers, True), (evidence.texts, False)):
            own = [rows[item.probe.id] for item in evidence.items if item.set == name and item.probe.id in rows]
            longest = min(POSITIONS, max((len(row.agree) for row in own), default=0))
            reaching = [[row.kl_tuned_base[at] for row in own if len(row.agree) > at] for at in range(longest)]
            if reaching:
                means = tuple(float(sum(values) / len(values)) for values in reaching)
                yield PositionCurve(name, of_answers, means, tuple(map(len, reaching)))


def _shown(
    evidence: Evidence, item: Item, row: ComparedText, label: str, decode: Decode, *, of_answer: bool
) -> ShownProbe:
    said = {
        side: evidence.spoken.get((side, GREEDY.name), {}).get((item.probe.id, 0)) for side in ("base", "tuned")
    }
    tuned = said["tuned"]
    ids = tuned.ids if of_answer and tuned is not None else item.texts[0].ids[item.texts[0].start :]
    ratios = row.log_p_tuned - row.log_p_base
    pieces = [decode([token]) for token in ids[:TOKENS]]
    pieces += ["(end)"] * (min(len(ratios), TOKENS) - len(pieces))
    tokens = tuple(
        ShownToken(piece, float(ratio), float(kl))
        for piece, ratio, kl in zip(pieces, ratios, row.kl_tuned_base, strict=False)
    )
    answers = {side: _clipped(one.text) if one is not None else "" for side, one in said.items()}
    return ShownProbe(
        probe=label,
        set=item.set,
        prompt=_clipped(item.asked),
        base=answers["base"],
        tuned=answers["tuned"],
        kl=float(row.kl_tuned_base.mean()),
        of_answer=of_answer,
        tokens=tokens,
    )


def _clipped(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
