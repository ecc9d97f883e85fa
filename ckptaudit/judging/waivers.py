"""Forgiving a broken claim until a date: what a waiver forgives, and what is left over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from ckptaudit.errors import printable
from ckptaudit.judging.check_files import Check
from ckptaudit.judging.config import Waiver
from ckptaudit.judging.judge import Verdict
from ckptaudit.judging.patterns import fits, near
from ckptaudit.judging.selection import MODEL, Part, parts
from ckptaudit.pairing import ModelPair

JudgeAgain = Callable[[frozenset[str]], Verdict]
"""The verdict that the subject would get without the tensors named."""


@dataclass(frozen=True)
class Granted:
    """A waiver as it bears on one check and run: the whole of some subjects, or some tensors."""

    waiver: Waiver
    has_ended: bool
    subjects: frozenset[str]
    tensors: frozenset[str]
    touched: frozenset[str]
    """The subjects on whose verdicts it may bear."""

    @property
    def sentence(self) -> str:
        """What a verdict says of it."""
        label, until, reason = self.waiver.label, self.waiver.until, printable(self.waiver.reason)
        if self.has_ended:
            return f"{label} ended on {until} (UTC) and forgives nothing any more: {reason}"
        return f"{label}, until {until}: {reason}"

    def bears_on(self, subject: str, broken: frozenset[str]) -> bool:
        """Whether it speaks of this broken subject, or of a tensor that breaks it."""
        return subject in self.subjects or bool(self.tensors & broken)


def forgive(verdict: Verdict, granted: Sequence[Granted], broken: frozenset[str], again: JudgeAgain) -> Verdict:
    """A failed verdict after all waivers: waived if nothing broken is left, else failed by what is left."""
    bearing = [g for g in granted if g.bears_on(verdict.subject, broken)]
    said = "; ".join(g.sentence for g in bearing)
    active = [g for g in bearing if not g.has_ended]
    spared = frozenset[str]().union(*(g.tensors for g in active))
    left = again(spared) if spared else verdict
    # What does not fail without them holds, or there is nothing else: all of the failure is forgiven.
    if left.outcome != "failed" or any(verdict.subject in g.subjects for g in active):
        reason = "; ".join(filter(None, (said, verdict.reason)))
        return msgspec.structs.replace(verdict, outcome="waived", waiver=said, reason=reason)
    return msgspec.structs.replace(left, waiver=said)


def grant(waiver: Waiver, check: Check, pair: ModelPair, *, has_ended: bool) -> Granted | None:
    """The waiver on a check of this pair; None if it speaks of nothing there."""
    owned = parts(check, pair)
    if waiver.subject in owned:
        whole = frozenset({waiver.subject})
        return Granted(waiver, has_ended, subjects=whole, tensors=frozenset(), touched=whole)
    if check.about_group:
        return None  # its one number cannot be had without some of the tensors
    hits = [(n.subject, n.matrix) for n in _named(check, pair, owned) if fits(waiver.subject, *n[1:])]
    if not hits:
        return None
    touched, tensors = (frozenset(column) for column in zip(*hits, strict=True))
    return Granted(waiver, has_ended, subjects=frozenset(), tensors=tensors, touched=touched)


class _Name(NamedTuple):
    """What a waiver can speak of: a matrix by its own name, by its weight's, by the place where it sits."""

    subject: str
    matrix: str
    weight: str
    place: str


def _named(check: Check, pair: ModelPair, owned: Mapping[str, Sequence[Part]]) -> Iterator[_Name]:
    if check.about_pair:
        # Its findings name tensors that do not align, too, and under their printable names.
        for name in map(printable, (*(t.name for t in pair.aligned), *(u.tensor for u in pair.unaligned))):
            yield _Name(MODEL, name, name, name)
    for subject, its in owned.items():
        yield from (_Name(subject, p.name, p.tensor.name, p.tensor.place.subject) for p in its)


def no_such_subject(waiver: Waiver, check: Check, pairs: Sequence[ModelPair]) -> str:
    """The complaint about a waiver that speaks of nothing in any pair."""
    owned = [(pair, parts(check, pair)) for pair in pairs]
    known = [subject for _, its in owned for subject in its]
    known += [name.weight for pair, its in owned for name in _named(check, pair, its)]
    what = f"no subject and no tensor of {check.id}"
    return f"key subject: {printable(waiver.subject)!r} is {what}; {near(waiver.subject, known)}"


def unused(granted: Granted, check: str, tuned: str, verdicts: Sequence[Verdict]) -> bool:
    """Whether every verdict that the waiver bears on was given, and none has needed it."""
    theirs = {v.subject: v for v in verdicts if v.check == check and v.tuned == tuned}
    asked = [theirs.get(subject) for subject in granted.touched]
    return all(v is not None and v.outcome != "error" and granted.sentence not in v.waiver for v in asked)
