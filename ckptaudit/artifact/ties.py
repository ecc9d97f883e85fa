"""Tied embeddings: what `tie_word_embeddings` says against the output head that is stored."""

from __future__ import annotations

from ckptaudit.artifact.config_defaults import class_defaults
from ckptaudit.artifact.facts import TEXT_CONFIGS, ArtifactEvidence, Side
from ckptaudit.artifact.json_documents import mapping_of
from ckptaudit.artifact.wording import place
from ckptaudit.findings import Finding

FLAG = "tie_word_embeddings"


def tie_faults(evidence: ArtifactEvidence) -> tuple[Finding, ...]:
    """A flag and a stored head that contradict each other, or a tie that the base does not have, or has.

    What base and tuned model do alike is how this model is released, and no fault. A right but separate copy of
    tied embeddings is none either.
    """
    base, tuned = evidence.base, evidence.tuned
    if not tuned.has_config or tuned.head.embedding is None:
        return ()
    fault = _fault(base, tuned, flag(base), flag(tuned))
    if fault is None or _stands_alike(base, tuned):
        return ()
    subject, what, mend = fault
    said = _said(tuned, flag(tuned))
    detail = f"{said}, {_stored(tuned)}; in the base {_said(base, flag(base))}, {_stored(base)}; {mend}"
    return (Finding(subject, what, detail),)


def flag(side: Side) -> bool | None:
    """What a side's configuration says of the tie, by its class's default where it says nothing; None: unknown."""
    said = stated(side)
    if said is not None or not side.has_config:
        return said
    default = (class_defaults(side.config) or {}).get(FLAG)
    return default if isinstance(default, bool) else None


def stated(side: Side) -> bool | None:
    """The flag itself. The outer one counts; a text part's does where there is none outside."""
    parts = [side.config, *(mapping_of(side.config.get(key)) for key in TEXT_CONFIGS)]
    found = (part.get(FLAG) for part in parts)
    return next((value for value in found if isinstance(value, bool)), None)


def _fault(base: Side, tuned: Side, before: bool | None, after: bool | None) -> tuple[str, str, str] | None:
    """(subject, fault, mend), or None."""
    at = place(tuned.config_file, FLAG)
    head, base_head = tuned.head.head, base.head.head
    if after and head is not None and tuned.head.equal is False:
        mend = "loading would put the embeddings in the head's place: write false, or store the tied head"
        return at, "tied by the flag, but another head is stored", mend
    if after and head is None and base_head is not None and base.head.equal is False and not before:
        mend = f"the head was lost in the export: save {base_head.name} and write false"
        return at, "tied by the flag, while the base is not", mend
    if after is False and head is None and _has_head(base, before):
        mend = "loading would draw a random head: write true if the head is tied, else export the head too"
        return at, "no head is stored, and none is tied", mend
    return _parted(base, tuned, before, after)


def _parted(base: Side, tuned: Side, before: bool | None, after: bool | None) -> tuple[str, str, str] | None:
    head = tuned.head.head
    if head is None:
        return None
    if before and tuned.head.equal is False and base.head.equal is not False:
        mend = "tie them again before the export, or say why the tie was given up"
        return head.name, "the base's tie is broken", mend
    if after is False and tuned.head.equal and base.head.equal is False:
        mend = "the export stored one of the two twice: save the trained head"
        return head.name, "the head is a copy of the embeddings", mend
    return None


def _has_head(base: Side, before: bool | None) -> bool:
    return base.head.head is not None or before is True


def _stands_alike(base: Side, tuned: Side) -> bool:
    """Whether flag and storage are the base's own: then the base has the same fault, or none."""
    same_head = (base.head.head is None) == (tuned.head.head is None)
    return base.has_config and flag(base) == flag(tuned) and same_head and base.head.equal == tuned.head.equal


def _said(side: Side, said: bool | None) -> str:
    if not side.has_config:
        return "no config.json"
    how = "" if stated(side) is not None else " (by default)"
    return f"{FLAG} is {'unknown' if said is None else str(said).lower()}{how}"


def _stored(side: Side) -> str:
    head, embedding = side.head.head, side.head.embedding
    if head is None:
        return "no head is stored"
    if side.head.equal is None or embedding is None:
        return f"{head.name} is stored"
    return f"{head.name} is stored and {'equals' if side.head.equal else 'differs from'} {embedding.name}"
