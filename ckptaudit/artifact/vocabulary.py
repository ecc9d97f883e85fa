"""The vocabulary's size wherever it is stated: rows of embeddings and head, config.json, tokenizer."""

from __future__ import annotations

from collections.abc import Iterator

from ckptaudit.artifact.facts import ArtifactEvidence, Side, text_view
from ckptaudit.artifact.json_documents import integer_of
from ckptaudit.artifact.special_tokens import config_ids
from ckptaudit.artifact.wording import capped, place, shown
from ckptaudit.findings import Finding

MEND = "resize the embeddings, the head and vocab_size together (resize_token_embeddings), and save all of them"


def vocabulary_faults(evidence: ArtifactEvidence) -> tuple[Finding, ...]:
    """Rows of embeddings and head, `vocab_size` and the tokenizer's ids where they disagree, and rows lost.

    What the base states in the same disagreement is how its release is built (padding rows) and no fault.
    """
    base, tuned = evidence.base, evidence.tuned
    inherited = {kind for kind, _ in _disagreements(base)}
    found = [finding for kind, finding in _disagreements(tuned) if kind not in inherited]
    return capped([*found, *_undeclared(base, tuned), *_lost(base, tuned)])


def _disagreements(side: Side) -> Iterator[tuple[str, Finding]]:
    rows = _rows(side)
    if rows is None:
        return
    name, count = rows
    yield from _head(side, name, count)
    size = integer_of(text_view(side.config).get("vocab_size"))
    if size is not None and size != count:
        detail = f"config.json declares {size:,}, {name} has {count:,} rows; {MEND}"
        yield "size", Finding(place(side.config_file, "vocab_size"), "vocabulary size", detail)
    yield from _ids(side, name, count)


def _undeclared(base: Side, tuned: Side) -> Iterator[Finding]:
    """Every release of transformers writes the size, whether it is the class's default or not."""
    before, after = (integer_of(text_view(side.config).get("vocab_size")) for side in (base, tuned))
    if tuned.has_config and before is not None and after is None and (rows := _rows(tuned)) is not None:
        detail = (
            f"the base declares {before:,}, the tuned config.json nothing, so that the class's default counts; "
            f"write {rows[1]:,}, the rows of {rows[0]}"
        )
        yield Finding(place(tuned.config_file, "vocab_size"), "vocabulary size", detail)


def _head(side: Side, name: str, count: int) -> Iterator[tuple[str, Finding]]:
    head, embedding = side.head.head, side.head.embedding
    if head is not None and embedding is not None and head.shape[0] != count:
        detail = f"{head.name} has {head.shape[0]:,} rows, {name} {count:,}; {MEND}"
        yield "head", Finding(head.name, "head and embeddings of different length", detail)


def _ids(side: Side, name: str, count: int) -> Iterator[tuple[str, Finding]]:
    beyond = sorted((id_, token) for token, id_ in side.tokenizer.ids.items() if id_ >= count)
    if beyond:
        id_, token = beyond[0]
        detail = (
            f"{len(beyond):,} tokens have ids that {name} with its {count:,} rows does not hold, the first "
            f"{shown(token)} at {id_:,}; {MEND}"
        )
        yield "tokens", Finding(place(side.label(side.tokenizer.file), "vocab"), "tokens beyond the rows", detail)
    for file, key, ids in config_ids(side):
        out = [id_ for id_ in ids if not 0 <= id_ < count and id_ != -1]
        if out:
            detail = f"it says {out[0]:,}, {name} has {count:,} rows; write the id that the tokenizer gives it"
            yield f"{file}:{key}", Finding(place(file, key), "special token beyond the rows", detail)


def _lost(base: Side, tuned: Side) -> Iterator[Finding]:
    pairs = ((base.head.embedding, tuned.head.embedding), (base.head.head, tuned.head.head))
    for before, after in pairs:
        if before is not None and after is not None and after.shape[0] < before.shape[0]:
            lost = before.shape[0] - after.shape[0]
            detail = (
                f"the base has {before.shape[0]:,} rows, the tuned model {after.shape[0]:,}: {lost:,} tokens are "
                "lost; export the full vocabulary (a gather of sharded embeddings must not be cut)"
            )
            yield Finding(after.name, "vocabulary cut", detail)


def _rows(side: Side) -> tuple[str, int] | None:
    known = side.head.embedding or side.head.head
    return None if known is None else (known.name, known.shape[0])
