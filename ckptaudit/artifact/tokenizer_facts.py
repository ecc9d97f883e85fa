"""A tokenizer's files to facts: which text has which id, and what else decides how text becomes ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from io import FileIO
from typing import cast

from ckptaudit.artifact.facts import TokenizerFact
from ckptaudit.artifact.json_documents import (
    JsonDocument,
    TextDocument,
    integer_of,
    list_of,
    mapping_of,
    text_of,
)
from ckptaudit.artifact.known_names import BINARY, BINARY_ENDINGS
from ckptaudit.artifact.listing import Entry
from ckptaudit.foreign_files import open_regular
from ckptaudit.foreign_files.places import Place

SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
MORE_SPECIAL = ("additional_special_tokens", "extra_special_tokens")
PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
NOT_SETTINGS = ("vocab", "merges")


def tokenizer_fact(
    folder: Place | None,
    documents: Mapping[str, JsonDocument],
    texts: Mapping[str, TextDocument],
    entries: Mapping[str, Entry],
) -> TokenizerFact:
    """What the files beside the weights say about the tokenizer; an empty fact where there are none."""
    fast = _contents(documents, "tokenizer.json")
    model = mapping_of(fast.get("model"))
    added = {text_of(t.get("content")): t for t in map(mapping_of, list_of(fast.get("added_tokens")))}
    file, ids = _vocabulary(documents, texts, model)
    special = _special(documents)
    return TokenizerFact(
        file=file,
        ids={**ids, **_added_ids(documents, added)},
        added=added,
        merges=_merges(model, texts),
        scores=_scores(model),
        parts={**{part: fast.get(part) for part in PARTS}, "model": _settings(model)} if fast else {},
        digests=_digests(folder, entries),
        special=special,
        whole=frozenset({*added, *special.values(), *_added_elsewhere(documents)}) - {""},
    )


def _contents(documents: Mapping[str, JsonDocument], name: str) -> Mapping[str, object]:
    return documents[name].value if name in documents else {}


def _vocabulary(
    documents: Mapping[str, JsonDocument], texts: Mapping[str, TextDocument], model: Mapping[str, object]
) -> tuple[str, dict[str, int]]:
    listed, mapped = model.get("vocab"), _contents(documents, "vocab.json")
    if isinstance(listed, list):
        return "tokenizer.json", {text_of(list_of(pair)[0]): i for i, pair in enumerate(listed) if list_of(pair)}
    if isinstance(listed, dict):
        return "tokenizer.json", _numbers(listed)
    if mapped:
        return "vocab.json", _numbers(mapped)
    lines = texts["vocab.txt"].text.splitlines() if "vocab.txt" in texts else []
    return ("vocab.txt", {line: i for i, line in enumerate(lines)}) if lines else ("", {})


def _numbers(vocabulary: Mapping[str, object]) -> dict[str, int]:
    return {token: number for token, id_ in vocabulary.items() if (number := integer_of(id_)) is not None}


def _added_ids(documents: Mapping[str, JsonDocument], added: Mapping[str, Mapping[str, object]]) -> dict[str, int]:
    ids = _numbers(_contents(documents, "added_tokens.json"))
    for key, token in mapping_of(_contents(documents, "tokenizer_config.json").get("added_tokens_decoder")).items():
        content = text_of(mapping_of(token).get("content"))
        if content and key.isascii() and key.isdecimal() and len(key) < 10:
            ids[content] = int(key)
    return ids | _numbers({content: token.get("id") for content, token in added.items()})


def _added_elsewhere(documents: Mapping[str, JsonDocument]) -> Iterator[str]:
    """Added tokens that other files than tokenizer.json state."""
    yield from _contents(documents, "added_tokens.json")
    config = _contents(documents, "tokenizer_config.json")
    yield from map(content_of, mapping_of(config.get("added_tokens_decoder")).values())
    for source in (_contents(documents, "special_tokens_map.json"), config):
        for key in MORE_SPECIAL:
            named = source.get(key)
            yield from map(content_of, mapping_of(named).values() if isinstance(named, dict) else list_of(named))


def _merges(model: Mapping[str, object], texts: Mapping[str, TextDocument]) -> tuple[object, ...]:
    """Merges in order. Releases of tokenizers write one as `"a b"` or as `["a", "b"]`."""
    if model:
        return tuple(" ".join(map(str, m)) if isinstance(m, list) else m for m in list_of(model.get("merges")))
    lines = texts["merges.txt"].text.splitlines() if "merges.txt" in texts else []
    return tuple(line for line in lines if line.strip() and not line.startswith("#version"))


def _scores(model: Mapping[str, object]) -> tuple[object, ...]:
    return tuple(pair[1] for pair in map(list_of, list_of(model.get("vocab"))) if len(pair) == 2)


def _settings(model: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in model.items() if key not in NOT_SETTINGS}


def _special(documents: Mapping[str, JsonDocument]) -> dict[str, str]:
    """The special tokens' texts; tokenizer_config.json comes before special_tokens_map.json, as in transformers."""
    sources = [_contents(documents, name) for name in ("special_tokens_map.json", "tokenizer_config.json")]
    found = {key: content_of(source[key]) for source in sources for key in SPECIAL if key in source}
    return {key: text for key, text in found.items() if text}


def content_of(token: object) -> str:
    """The text of a token, stated alone or with its flags; empty where it is neither."""
    return text_of(token) or text_of(mapping_of(token).get("content"))


def _digests(folder: Place | None, entries: Mapping[str, Entry]) -> dict[str, str]:
    names = [n for n, e in entries.items() if e.kind == "file" and (n in BINARY or n.endswith(BINARY_ENDINGS))]
    return {name: _digest(folder / name) for name in names} if folder is not None else {}


def _digest(path: Place) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(cast(FileIO, file), "sha256").hexdigest()
