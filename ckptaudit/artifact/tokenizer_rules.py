"""The parts of tokenizer.json in one form, where releases of transformers write one rule in two ways."""

from __future__ import annotations

from collections.abc import Mapping

from ckptaudit.artifact.json_documents import list_of, mapping_of

SPACE = "▁"

NONE_UNLESS_STATED = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
"""Settings of a tokenizer's model that every release takes for none where the file has none."""


def canonical(parts: Mapping[str, object]) -> dict[str, object]:
    """The parts with SentencePiece's handling of spaces as one entry, and without what a model leaves unstated.

    A space becomes a visible mark either in the normalizer (`Prepend`, `Replace`) or in the pre-tokenizer
    (`Metaspace`); converters write the one as the other. Only whether text begins with a mark is compared.
    """
    normalizers, pre_tokenizers = _steps(parts, "normalizer"), _steps(parts, "pre_tokenizer")
    spaces = _spaces(normalizers, pre_tokenizers)
    if spaces is None:
        return {**parts, "model": _stated(parts)}
    return {
        **{name: part for name, part in parts.items() if name != "decoder"},
        "normalizer": [step for step in normalizers if not _is_mark(step)],
        "pre_tokenizer": [step for step in pre_tokenizers if step.get("type") != "Metaspace"],
        "model": _stated(parts),
        "spaces": spaces,
    }


def _spaces(normalizers: list[Mapping[str, object]], pre_tokenizers: list[Mapping[str, object]]) -> str | None:
    metaspace = next((step for step in pre_tokenizers if step.get("type") == "Metaspace"), None)
    if metaspace is not None:
        scheme = metaspace.get("prepend_scheme", "always" if metaspace.get("add_prefix_space", True) else "never")
        return "no mark before the text" if scheme == "never" else "a mark before the text"
    marks = {step.get("type") for step in normalizers if _is_mark(step)}
    if "Replace" not in marks:
        return None
    return "a mark before the text" if "Prepend" in marks else "no mark before the text"


def _is_mark(step: Mapping[str, object]) -> bool:
    if step.get("type") == "Prepend":
        return step.get("prepend") == SPACE
    return step.get("type") == "Replace" and step.get("content") == SPACE


def _steps(parts: Mapping[str, object], name: str) -> list[Mapping[str, object]]:
    part = mapping_of(parts.get(name))
    inner = list_of(part.get("normalizers") or part.get("pretokenizers"))
    return [mapping_of(step) for step in inner] if part.get("type") == "Sequence" else [part] if part else []


def _stated(parts: Mapping[str, object]) -> dict[str, object]:
    model = mapping_of(parts.get("model"))
    return {**dict.fromkeys(NONE_UNLESS_STATED), **{k: v for k, v in model.items() if v is not None}}
