"""Special tokens against the base: ids in config.json and generation_config.json, texts in the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ckptaudit.artifact.config_defaults import class_defaults
from ckptaudit.artifact.facts import ArtifactEvidence, Side, text_view
from ckptaudit.artifact.json_documents import integer_of, list_of
from ckptaudit.artifact.tokenizer_facts import SPECIAL, content_of
from ckptaudit.artifact.wording import capped, place, shown
from ckptaudit.findings import Finding

IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "decoder_start_token_id")
GENERATION = "generation_config.json"
MAP = "special_tokens_map.json"


def special_token_changes(evidence: ArtifactEvidence) -> tuple[Finding, ...]:
    """Special tokens whose text in the tokenizer, or id in config.json, is not the base's.

    Trainers write the tokenizer's ids into config.json, so an id is no change where the tokenizer says the same
    on both sides and the new id is its; a padding token may be added where the base has none.
    """
    base, tuned = evidence.base, evidence.tuned
    return capped(
        [
            *_texts(base, tuned),
            *_between_files(base, tuned),
            *_ids(base, tuned),
            *_against_tokenizer(base, tuned),
        ]
    )


def config_ids(side: Side) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(file, key, ids) of every special token id that a side's own files state."""
    view = text_view(side.config) if side.has_config else {}
    sources = ((side.config_file, view), (side.label(GENERATION), side.document(GENERATION)))
    for file, source in sources:
        for key in IDS:
            ids = ids_of(source.get(key))
            if ids:
                yield file, key, ids


def ids_of(value: object) -> tuple[int, ...]:
    """The ids that a value states: one number or a list of them."""
    values = list_of(value) if isinstance(value, list) else [value]
    return tuple(number for v in values if (number := integer_of(v)) is not None)


def is_alignment(evidence: ArtifactEvidence, key: str, before: object, after: object) -> bool:
    """Whether an id changed only to what the tokenizer, unchanged in this token, has always said.

    For tokens that end a text several ids may stand: none of the base's may be lost but by that rule.
    """
    token = key.removesuffix("_id")
    stated = {_id_of(side, token) for side in (evidence.base, evidence.tuned) if side.tokenizer.ids}
    if key == "bos_token_id" and after is None:
        return all(token not in side.tokenizer.special for side in (evidence.base, evidence.tuned))
    if len(stated) != 1 or None in stated:
        return False
    old, new = set(ids_of(before)), set(ids_of(after))
    return bool(new) and new - old <= stated and (new >= old or new == stated)


def _texts(base: Side, tuned: Side) -> Iterator[Finding]:
    if not tuned.tokenizer.special:
        return
    for token, before in base.tokenizer.special.items():
        after = tuned.tokenizer.special.get(token)
        if after != before:
            now = "nothing" if after is None else shown(after)
            detail = f"the base says {shown(before)}, the tuned model {now}; copy the base's tokenizer files"
            yield Finding(place(tuned.label("tokenizer_config.json"), token), "special token changed", detail)
    for token, after in tuned.tokenizer.special.items():
        if (
            token not in base.tokenizer.special
            and base.tokenizer.special
            and token not in ("pad_token", "unk_token")
        ):
            detail = f"the base has none, the tuned model {shown(after)}; copy the base's tokenizer files"
            yield Finding(place(tuned.label("tokenizer_config.json"), token), "special token added", detail)


def _between_files(base: Side, tuned: Side) -> Iterator[Finding]:
    """Two files that state another text for one token: which of them is read depends on the release."""
    inherited = {token for token, *_ in _contradictions(base)}
    for token, here, there in _contradictions(tuned):
        if token not in inherited:
            detail = (
                f"this file says {shown(here)}, tokenizer_config.json {shown(there)}, and releases of transformers "
                "differ in which they read; copy the base's tokenizer files"
            )
            yield Finding(place(tuned.label(MAP), token), "special token contradicts", detail)


def _contradictions(side: Side) -> Iterator[tuple[str, str, str]]:
    mapped, settings = side.document(MAP), side.document("tokenizer_config.json")
    for token in SPECIAL:
        here, there = content_of(mapped.get(token)), content_of(settings.get(token))
        if here and there and here != there:
            yield token, here, there


def _ids(base: Side, tuned: Side) -> Iterator[Finding]:
    if not (base.has_config and tuned.has_config):
        return
    evidence = ArtifactEvidence(base, tuned)
    before, after = text_view(base.config), text_view(tuned.config)
    defaults = class_defaults(base.config) or {}
    for key in IDS:
        one, other = (view.get(key, defaults.get(key)) for view in (before, after))
        if _is_changed(evidence, key, one, other):
            detail = (
                f"the base says {shown(one)}, the tuned model {shown(other)}; write the id with which it was "
                "trained, or generation ends or begins at the wrong token"
            )
            yield Finding(place(tuned.config_file, key), "special token id changed", detail)


def _is_changed(evidence: ArtifactEvidence, key: str, before: object, after: object) -> bool:
    if set(ids_of(before)) == set(ids_of(after)):
        return False
    if is_alignment(evidence, key, before, after):
        return False
    if not ids_of(after):
        # A newer release may leave ids to generation_config.json.
        kept = ids_of(evidence.tuned.document(GENERATION).get(key))
        return set(kept) != set(ids_of(before)) and key != "pad_token_id"
    return bool(ids_of(before)) or key != "pad_token_id"


def _against_tokenizer(base: Side, tuned: Side) -> Iterator[Finding]:
    """Ids that do not name the tokenizer's own token, where the base's do."""
    inherited = {key for key, *_ in _strangers(base)}
    for key, stated, own in _strangers(tuned):
        if key not in inherited and base.tokenizer.ids:
            detail = (
                f"the ids stated are {shown(sorted(stated))}, the tokenizer has {own:,}; write the tokenizer's id"
            )
            yield Finding(
                place(tuned.config_file or tuned.label(GENERATION), key), "special token id unknown", detail
            )


def _strangers(side: Side) -> Iterator[tuple[str, set[int], int]]:
    stated: dict[str, set[int]] = {}
    for _, key, ids in config_ids(side):
        stated.setdefault(key, set()).update(ids)
    for key, own_ids in stated.items():
        own = _id_of(side, key.removesuffix("_id"))
        if own is not None and own not in own_ids and key != "pad_token_id":
            yield key, own_ids, own


def _id_of(side: Side, token: str) -> int | None:
    special: Mapping[str, str] = side.tokenizer.special
    return side.tokenizer.ids.get(special[token]) if token in special else None
