"""Forgiving a broken claim until a date: what a waiver forgives, and what is left over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from ckptaudit.errors import printable
from ckptaudit.judging.checks import Check
from ckptaudit.judging.config import Waiver
from ckptaudit.judging.selection import MODEL, PROBES, ROLLOUTS, JudgedMatrix, fits, near, parts
from ckptaudit.judging.verdict import Verdict
from ckptaudit.pairing import ModelPair

JudgeAgain = Callable[[frozenset[str]], Verdict]
"""The verdict that the subject would get without the tensors named."""


@dataclass(frozen=True)
class AppliedWaiver:
    """What a waiver forgives of one check and run: some subjects, some tensors, or findings that fit `pattern`."""

    waiver: Waiver
    has_ended: bool
    subjects: frozenset[str]
    tensors: frozenset[str]
    touched: frozenset[str]
    """The subjects whose verdicts it may change."""
    pattern: str = ""

    @property
    def sentence(self) -> str:
        """What a verdict says of it."""
        label, until, reason = self.waiver.label, self.waiver.until, printable(self.waiver.reason)
        if self.has_ended:
            return f"{label} ended on {until} (UTC) and forgives nothing any more: {reason}"
        return f"{label}, until {until}: {reason}"

    def concerns(self, subject: str, broken: frozenset[str]) -> bool:
        """Whether it names this broken subject, or a tensor that breaks it."""
        return subject in self.subjects or bool(self.excluded(broken))

    def excluded(self, broken: frozenset[str]) -> frozenset[str]:
        """Which of the tensors or findings that break a claim it forgives."""
        found = self.tensors & broken
        if self.pattern:
            found |= {name for name in broken if fits(self.pattern, name, printable(name))}
        return found


def forgive(
    verdict: Verdict, waivers: Sequence[AppliedWaiver], broken: frozenset[str], again: JudgeAgain
) -> Verdict:
    """A failed verdict after all waivers: waived if nothing broken is left, else failed by what is left."""
    concerned = [w for w in waivers if w.concerns(verdict.subject, broken)]
    said = "; ".join(w.sentence for w in concerned)
    active = [w for w in concerned if not w.has_ended]
    excluded = frozenset[str]().union(*(w.excluded(broken) for w in active))
    left = again(excluded) if excluded else verdict
    # What does not fail without them holds, or there is nothing else: all of the failure is forgiven.
    if left.outcome != "failed" or any(verdict.subject in w.subjects for w in active):
        reason = "; ".join(filter(None, (said, verdict.reason)))
        return msgspec.structs.replace(verdict, outcome="waived", waiver=said, reason=reason)
    return msgspec.structs.replace(left, waiver=said)


def apply_waiver(waiver: Waiver, check: Check, pair: ModelPair, *, has_ended: bool) -> AppliedWaiver | None:
    """The waiver on a check of this pair; None if it names nothing there."""
    owned = parts(check, pair)
    nothing = frozenset[str]()
    if waiver.subject in owned:
        named = frozenset({waiver.subject})
        return AppliedWaiver(waiver, has_ended, subjects=named, tensors=nothing, touched=named)
    if check.counts_findings and check.scope != "pair":
        # What is found in files has no list of names to be looked up in before it is found.
        model = frozenset({MODEL})
        return AppliedWaiver(waiver, has_ended, nothing, nothing, touched=model, pattern=waiver.subject)
    if check.scope == "rollouts":
        # `step 12`, or a glob of such names.
        return AppliedWaiver(waiver, has_ended, nothing, nothing, frozenset({ROLLOUTS}), pattern=waiver.subject)
    if check.scope == "probes":
        # `set retain`, or a glob of such names.
        return AppliedWaiver(waiver, has_ended, nothing, nothing, frozenset({PROBES}), pattern=waiver.subject)
    if check.scope == "group":
        return None  # its one number cannot be had without some of the tensors
    hits = [(n.subject, n.matrix) for n in _named(check, pair, owned) if fits(waiver.subject, *n[1:])]
    if not hits:
        return None
    touched, tensors = (frozenset(column) for column in zip(*hits, strict=True))
    return AppliedWaiver(waiver, has_ended, subjects=nothing, tensors=tensors, touched=touched)


class _Name(NamedTuple):
    """What a waiver can name: a matrix by its own name, by its weight's, by the place where it sits."""

    subject: str
    matrix: str
    weight: str
    place: str


def _named(check: Check, pair: ModelPair, owned: Mapping[str, Sequence[JudgedMatrix]]) -> Iterator[_Name]:
    if check.scope == "pair":
        # Its findings name tensors that do not align, too; a configuration may use their printable names.
        for name in (*(t.name for t in pair.aligned), *(u.tensor for u in pair.unaligned)):
            yield _Name(MODEL, name, printable(name), name)
    for subject, its in owned.items():
        yield from (_Name(subject, p.name, p.tensor.name, p.tensor.place.subject) for p in its)


def no_such_subject(waiver: Waiver, check: Check, pairs: Sequence[ModelPair]) -> str:
    """The complaint about a waiver that names nothing in any pair."""
    owned = [(pair, parts(check, pair)) for pair in pairs]
    known = [subject for _, its in owned for subject in its]
    known += [name.weight for pair, its in owned for name in _named(check, pair, its)]
    what = f"no subject and no tensor of {check.id}"
    return f"key subject: '{printable(waiver.subject)}' is {what}; {near(waiver.subject, known)}"


def unused(applied: AppliedWaiver, check: str, tuned: str, verdicts: Sequence[Verdict]) -> bool:
    """Whether every verdict that the waiver concerns was given, and none has needed it."""
    theirs = {v.subject: v for v in verdicts if v.check == check and v.tuned == tuned}
    asked = [theirs.get(subject) for subject in applied.touched]
    return all(v is not None and v.outcome != "error" and applied.sentence not in v.waiver for v in asked)
