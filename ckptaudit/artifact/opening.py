"""From two opened checkpoints and their folders to the facts that every metric of the artifact rests on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ckptaudit.artifact.facts import ArtifactEvidence, HeadFact, Side, StoredFact
from ckptaudit.artifact.index_facts import index_facts
from ckptaudit.artifact.json_documents import (
    JsonDocument,
    TextDocument,
    list_of,
    mapping_of,
    read_json,
    read_text,
    text_of,
)
from ckptaudit.artifact.known_names import JSON_NAMES, TEXT_NAMES
from ckptaudit.artifact.listing import Entry, entries
from ckptaudit.artifact.other_weights import other_weights
from ckptaudit.artifact.places import CONFIG, Places, places
from ckptaudit.artifact.rank_facts import rank_facts
from ckptaudit.artifact.stored import head_fact, stored_facts
from ckptaudit.artifact.tokenizer_facts import tokenizer_fact
from ckptaudit.checkpoints import Checkpoint
from ckptaudit.foreign_files.places import Place

MORE_TEMPLATES = "additional_chat_templates"


def open_artifact(base: Checkpoint, tuned: Checkpoint) -> ArtifactEvidence:
    """Read what lies beside the tensors of both sides, and what the metrics need of the tensors themselves.

    Headers, JSON, text and hashes; of the tensors only the output head and the embeddings, tensors that several
    ranks store complete, and a second set of weights up to its first difference. A damaged document becomes a
    fact about it. Raises CheckpointError where a folder or a tensor cannot be read.
    """
    return ArtifactEvidence(base=_side(base, is_tuned=False), tuned=_side(tuned, is_tuned=True))


def _side(checkpoint: Checkpoint, *, is_tuned: bool) -> Side:
    where = places(checkpoint)
    listing = entries(where.documents)
    documents = _documents(where, listing)
    texts = _texts(where, listing)
    is_adapter = checkpoint.is_update
    own = documents.get(CONFIG)
    is_read = own is not None and not own.problem
    config = own.value if own is not None and is_read else {}
    tensors = stored_facts(checkpoint, config or checkpoint.config)
    templates, template_files = _templates(documents, texts)
    return Side(
        path=checkpoint.path,
        format=checkpoint.format,
        is_adapter=is_adapter,
        # A tuned side that states nothing has lost what its base states; a base that states nothing is silent.
        config_file=where.prefix + CONFIG if (config or (is_read and is_tuned)) and not is_adapter else "",
        config={} if is_adapter else config,
        documents=documents,
        texts=texts,
        entries=listing,
        tensors=tensors,
        head=HeadFact() if is_adapter else _head(checkpoint, tensors),
        tokenizer=tokenizer_fact(where.documents, documents, texts, listing),
        templates=templates,
        template_files=template_files,
        other_weights=other_weights(checkpoint, where) if is_tuned and not is_adapter else (),
        indexes=index_facts(checkpoint, where) if is_tuned and not is_adapter else (),
        ranks=rank_facts(checkpoint, where) if is_tuned else (),
        prefix=where.prefix,
    )


def _head(checkpoint: Checkpoint, tensors: tuple[StoredFact, ...]) -> HeadFact:
    return head_fact(checkpoint, tensors)


def _documents(where: Places, listing: Mapping[str, Entry]) -> dict[str, JsonDocument]:
    folder = where.documents
    return {n: _read(folder / n, n, listing[n]) for n in JSON_NAMES if n in listing} if folder else {}


def _read(path: Place, name: str, entry: Entry) -> JsonDocument:
    return read_json(path, name) if entry.kind == "file" else JsonDocument(name, problem=_kind(entry))


def _texts(where: Places, listing: Mapping[str, Entry]) -> dict[str, TextDocument]:
    folder = where.documents
    if folder is None:
        return {}
    found = {n: folder / n for n in TEXT_NAMES if n in listing}
    if MORE_TEMPLATES in listing and listing[MORE_TEMPLATES].kind == "folder":
        names = [n for n in entries(folder / MORE_TEMPLATES) if n.endswith(".jinja")]
        found |= {f"{MORE_TEMPLATES}/{n}": folder / MORE_TEMPLATES / n for n in names}
    return {name: _read_text(path, name) for name, path in found.items()}


def _read_text(path: Place, name: str) -> TextDocument:
    is_odd = not path.is_file()
    return TextDocument(name, problem="not a regular file") if is_odd else read_text(path, name)


def _kind(entry: Entry) -> str:
    return "a directory where a file is expected" if entry.kind == "folder" else "not a regular file"


def _templates(
    documents: Mapping[str, JsonDocument], texts: Mapping[str, TextDocument]
) -> tuple[dict[str, str], dict[str, str]]:
    """Chat templates by name and the file of each; a file of its own comes before tokenizer_config.json."""
    found: dict[str, tuple[str, str]] = {}
    for name in ("tokenizer_config.json", "chat_template.json"):
        stated = documents[name].value.get("chat_template") if name in documents else None
        for label, text in _named(stated):
            found[label] = (text, name)
    for name, document in texts.items():
        if name.endswith(".jinja") and not document.problem:
            label = "default" if name == "chat_template.jinja" else Path(name).stem
            found[label] = (document.text, name)
    return {k: text for k, (text, _) in found.items()}, {k: file for k, (_, file) in found.items()}


def _named(stated: object) -> list[tuple[str, str]]:
    if isinstance(stated, str):
        return [("default", stated)]
    listed = [mapping_of(t) for t in list_of(stated)]
    pairs = [(text_of(t.get("name")), text_of(t.get("template"))) for t in listed]
    return [*pairs, *((k, text_of(v)) for k, v in mapping_of(stated).items())]
