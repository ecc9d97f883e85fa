"""The tuned model's tokenizer against the base's: the same text must become the same ids."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ckptaudit.artifact.facts import ArtifactEvidence, Side, TokenizerFact
from ckptaudit.artifact.tokenizer_rules import canonical
from ckptaudit.artifact.wording import SHOWN, capped, place, shown
from ckptaudit.findings import Finding

MEND = "copy the base's tokenizer files"
SETTINGS = (
    "add_bos_token", "add_eos_token", "add_prefix_space", "do_lower_case", "do_basic_tokenize", "strip_accents",
    "tokenize_chinese_chars", "split_special_tokens", "sp_model_kwargs", "legacy", "errors",
)  # fmt: skip
"""Keys of tokenizer_config.json that change what a text becomes. Sides, lengths and classes do not."""

DEFAULTS = {"split_special_tokens": False}
"""What every release takes for a setting that the file does not state."""

MARKER = re.compile(r"\W*(<.*>|\[.*\]|\{.*\})\W*", re.DOTALL)
"""How tokens look that stand for no ordinary text."""

TOKEN_FLAGS = ("special", "lstrip", "rstrip", "normalized", "single_word")


def tokenizer_changes(evidence: ArtifactEvidence) -> tuple[Finding, ...]:
    """Tokens whose id is not the base's, tokens lost, and other rules by which text becomes ids.

    New tokens are no change, unless they are words of the base. Nothing to compare where one side has no tokenizer.
    """
    base, tuned = evidence.base, evidence.tuned
    if not (base.tokenizer.is_there and tuned.tokenizer.is_there):
        return ()
    return capped([*_ids(base, tuned), *_rules(base, tuned), *_settings(base, tuned), *_digests(base, tuned)])


def _ids(base: Side, tuned: Side) -> Iterator[Finding]:
    before, after = base.tokenizer.ids, tuned.tokenizer.ids
    if not before or not after:
        return
    at = place(tuned.label(tuned.tokenizer.file), "vocab")
    lost = [token for token in before if token not in after]
    if lost:
        first = f"{shown(lost[0])} (id {before[lost[0]]:,})"
        detail = f"{len(lost):,} tokens of the base are gone, the first {first}; {MEND}"
        yield Finding(at, "tokens lost", detail)
    moved = {token: (id_, after[token]) for token, id_ in before.items() if after.get(token, id_) != id_}
    if moved:
        pairs = list(moved.items())[:SHOWN]
        said = ", ".join(f"{shown(token)} {old:,} to {new:,}" for token, (old, new) in pairs)
        what = (
            "tokens exchanged" if {o for o, _ in moved.values()} == {n for _, n in moved.values()} else "ids moved"
        )
        yield Finding(at, what, f"{len(moved):,} tokens, {said} (base to tuned); {MEND}")
    taken = set(before.values())
    shared = [token for token, id_ in after.items() if token not in before and id_ in taken]
    if shared:
        first = f"{shown(shared[0])} (id {after[shared[0]]:,})"
        yield Finding(
            at, "ids shared", f"{len(shared):,} new tokens have the id of another, the first {first}; {MEND}"
        )


def _rules(base: Side, tuned: Side) -> Iterator[Finding]:
    one, other = base.tokenizer, tuned.tokenizer
    file = tuned.label("tokenizer.json")
    if one.merges and other.merges and one.merges != other.merges:
        yield Finding(place(file, "merges"), "merges differ", f"{_first(one.merges, other.merges)}; {MEND}")
    if one.scores and other.scores and one.scores != other.scores[: len(one.scores)]:
        yield Finding(place(file, "vocab"), "scores differ", f"{_first(one.scores, other.scores)}; {MEND}")
    if one.parts and other.parts:
        for key, before, after in _differences(canonical(one.parts), canonical(other.parts)):
            detail = f"the base says {shown(before)}, the tuned model {shown(after)}; {MEND}"
            yield Finding(place(file, key), "tokenizer rule differs", detail)
    yield from _flags(one.added, other.added, file)
    yield from _kept_whole(one, other, file)


def _kept_whole(one: TokenizerFact, other: TokenizerFact, file: str) -> Iterator[Finding]:
    """Added tokens are cut out of a text before anything else is: one that is lost is spelled out in pieces, and
    one that is an ordinary token of the base cuts every text that it occurs in.
    """
    if not (one.added and other.parts):
        return
    lost = sorted(one.added.keys() - other.whole)
    if lost:
        detail = f"{len(lost):,} of the base are ordinary text here, the first {shown(lost[0])}; {MEND}"
        yield Finding(place(file, "added_tokens"), "added tokens lost", detail)
    ordinary = (token for token in other.whole - one.whole if token in one.ids)
    cut = sorted(token for token in ordinary if not MARKER.fullmatch(token))
    if cut:
        detail = f"{len(cut):,} ordinary tokens of the base are added ones here, the first {shown(cut[0])}; {MEND}"
        yield Finding(place(file, "added_tokens"), "ordinary tokens added", detail)


def _flags(
    before: Mapping[str, Mapping[str, object]], after: Mapping[str, Mapping[str, object]], file: str
) -> Iterator[Finding]:
    for token in before.keys() & after.keys():
        for flag in TOKEN_FLAGS:
            one, other = before[token].get(flag), after[token].get(flag)
            if one != other and one is not None and other is not None:
                detail = f"{flag} of {shown(token)} is {shown(one)} in the base and {shown(other)} here; {MEND}"
                yield Finding(place(file, "added_tokens"), "added token differs", detail)


def _differences(before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[tuple[str, object, object]]:
    """Keys stated on both sides at different values, at any depth; what only one release writes is passed over."""
    waiting: list[tuple[str, object, object]] = [("", before, after)]
    while waiting:
        path, one, other = waiting.pop()
        if isinstance(one, dict) and isinstance(other, dict):
            waiting += [(f"{path}.{k}" if path else k, v, other[k]) for k, v in one.items() if k in other]
        elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
            waiting += [(f"{path}[{i}]", v, w) for i, (v, w) in enumerate(zip(one, other, strict=True))]
        elif one != other and (one or other):
            yield path, one, other


def _settings(base: Side, tuned: Side) -> Iterator[Finding]:
    name = "tokenizer_config.json"
    before, after = base.document(name), tuned.document(name)
    for key in SETTINGS:
        one, other = (settings.get(key, DEFAULTS.get(key)) for settings in (before, after))
        if one is not None and other is not None and one != other:
            detail = f"the base says {shown(one)}, the tuned model {shown(other)}; {MEND}"
            yield Finding(place(tuned.label(name), key), "tokenizer setting differs", detail)


def _digests(base: Side, tuned: Side) -> Iterator[Finding]:
    before, after = base.tokenizer.digests, tuned.tokenizer.digests
    for name in before.keys() & after.keys():
        if before[name] != after[name]:
            detail = f"its contents are not the base's (sha256 {before[name][:12]} to {after[name][:12]}); {MEND}"
            yield Finding(place(tuned.label(name)), "tokenizer file differs", detail)


def _first(before: tuple[object, ...], after: tuple[object, ...]) -> str:
    pairs = zip(before, after, strict=False)
    at = next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(before), len(after)))
    one, other = (side[at] if at < len(side) else None for side in (before, after))
    return (
        f"first at entry {at:,}: {shown(one)} in the base, {shown(other)} here ({len(before):,} to {len(after):,})"
    )
