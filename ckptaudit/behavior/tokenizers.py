"""The tokenizer and the chat template of a local folder, by transformers; no code of the folder's own is run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import msgspec

from ckptaudit.behavior.rendering import Conversation, rendered
from ckptaudit.errors import ProbeError, parameter, printable
from ckptaudit.foreign_files import regular_size

MAX_FILE = 256 * 2**20
"""Bytes of a tokenizer's file."""

MAX_TEMPLATE = 2**18
"""Characters of a chat template."""

FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "spiece.model", "tokenizer.model", "chat_template.jinja", "chat_template.json",
    "config.json",
)  # fmt: skip

VOCABULARIES = (
    "tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model",
    "source.spm", "tekken.json", "*.tiktoken",
)  # fmt: skip
"""Files of which each by itself tells that a folder has a tokenizer of its own."""

TemplateChoice = Literal["tuned", "base", "own"]


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer of transformers. `opening` holds the special tokens that it puts in front of plain text."""

    path: str
    native: Any
    template: str | None
    opening: tuple[int, ...]
    written: dict[tuple[str, Conversation], tuple[bool, str]] = field(
        default_factory=dict, compare=False, repr=False
    )
    """Conversations that a template has written out already."""

    def ids(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Ids of each text, with the special tokens that are written in it and no others."""
        if not texts:
            return []
        return [tuple(ids) for ids in self.native(list(texts), add_special_tokens=False)["input_ids"]]

    def write(self, template: str, conversations: Iterable[Conversation]) -> None:
        """Write out conversations that `conversation` is then asked for, all in one process. Raises ProbeError."""
        waiting = [one for one in dict.fromkeys(conversations) if (template, one) not in self.written]
        if waiting:
            named = {k: str(v) for k, v in self.native.special_tokens_map.items() if not isinstance(v, list | dict)}
            for one, text in zip(waiting, rendered(template, named, waiting), strict=True):
                self.written[template, one] = text

    def conversation(self, template: str, conversation: Conversation) -> str:
        """A conversation as the template writes it. Raises ProbeError where the template refuses it."""
        self.write(template, [conversation])
        fine, text = self.written[template, conversation]
        if not fine:
            raise ProbeError(f"the chat template fails ({_short(text)})")
        return text

    @property
    def vocabulary(self) -> Mapping[str, int]:
        """Every token with its id, added ones included."""
        known: dict[str, int] = self.native.get_vocab()
        return known

    @property
    def special(self) -> tuple[str, ...]:
        """The special tokens as they are written."""
        return tuple(map(str, self.native.all_special_tokens))

    @property
    def digest(self) -> str:
        """Of all that decides which ids a text becomes, the chat template included."""
        backend = getattr(self.native, "backend_tokenizer", None)
        rules = sorted(self.vocabulary.items()) if backend is None else backend.to_str()
        content = msgspec.json.encode((rules, self.template, self.opening))
        return blake2b(content, digest_size=16).hexdigest()


@dataclass(frozen=True)
class Agreement:
    """Two vocabularies that give no text two ids: how many tokens they share, and which only one of them has."""

    shared: int
    only_base: tuple[str, ...]
    only_tuned: tuple[str, ...]


def open_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a local folder. Raises ProbeError, also where transformers would make one up."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise ProbeError("probes need transformers; install it with pip install 'ckptaudit[collect]'.") from None
    if not has_tokenizer(folder):
        raise ProbeError(without_tokenizer(folder))
    _refuse_strange_files(folder)
    try:
        native = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return Tokenizer(str(folder), native, _template(native), _opening(native))
    except ProbeError:
        raise
    # The Rust library's panics derive from BaseException.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise
        raise ProbeError(f"{printable(folder)}: transformers reads no tokenizer here ({_short(error)}).") from error


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder brings a vocabulary; adapters often do not."""
    return any(any(folder.glob(name)) for name in VOCABULARIES)


def without_tokenizer(folder: Path) -> str:
    """That a folder has none, in a sentence. From a configuration alone transformers makes up a few tokens."""
    return (
        f"{printable(folder)} has no tokenizer: no tokenizer.json and no other vocabulary lies there; copy its "
        "tokenizer's files there."
    )


def agreement(base: Tokenizer, tuned: Tokenizer) -> Agreement:
    """What two vocabularies have in common. Raises ProbeError where a token has another id, or ids other tokens.

    Only then are a token's probabilities by both models about the same token.
    """
    before, after = base.vocabulary, tuned.vocabulary
    moved = sorted((t for t, id_ in before.items() if after.get(t, id_) != id_), key=before.__getitem__)
    if moved:
        raise _disagree(f"{len(moved):,} tokens have other ids, {_said(moved[0], before, after)}")
    shared = len(before.keys() & after.keys())
    only_base, only_tuned = (
        tuple(t for t, _ in sorted(one.items(), key=lambda item: item[1]) if t not in other)
        for one, other in ((before, after), (after, before))
    )
    tokens = {before[token]: token for token in only_base}
    reused = next((token for token in only_tuned if after[token] in tokens), None)
    if reused is not None:
        old = printable(tokens[after[reused]])
        raise _disagree(f"id {after[reused]:,} is '{old}' in the base and '{printable(reused)}' in the tuned model")
    return Agreement(shared, only_base, only_tuned)


def refuse_other_ids(base: Tokenizer, tuned: Tokenizer, texts: Sequence[str]) -> None:
    """Raise ProbeError where a text becomes other ids: the same vocabulary, and yet other rules."""
    pairs = zip(texts, base.ids(texts), tuned.ids(texts), strict=True)
    different = [text for text, before, after in pairs if before != after]
    if different:
        raise _disagree(
            f"{len(different):,} of {len(texts):,} texts become other ids, '{printable(different[0][:60])}'"
        )


def templates(base: Tokenizer, tuned: Tokenizer, choice: TemplateChoice = "tuned") -> tuple[str | None, str | None]:
    """The chat templates for the base and for the tuned model.

    "tuned" and "base" give both models that one's, so that both see the same text; "own" each its own. A model
    without one is given the other's.
    """
    first, second = base.template or tuned.template, tuned.template or base.template
    return {"tuned": (second, second), "base": (first, first), "own": (first, second)}[choice]


def _refuse_strange_files(folder: Path) -> None:
    for path in (folder / name for name in FILES):
        try:
            size = regular_size(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ProbeError(f"{printable(path)}: {printable(error.strerror or 'cannot be read')}.") from None
        if size > MAX_FILE:
            raise ProbeError(
                f"{printable(path)}: {size:,} bytes, more than the {MAX_FILE:,} of a tokenizer's file."
            )


def _template(native: Any) -> str | None:
    found = getattr(native, "chat_template", None)
    if isinstance(found, dict):
        found = found.get("default")
    if found is not None and len(found) > MAX_TEMPLATE:
        raise ProbeError(
            f"a chat template of {len(found):,} characters, more than the {MAX_TEMPLATE:,} that are read."
        )
    return found or None


def _opening(native: Any) -> tuple[int, ...]:
    bare, full = (list(native("a", add_special_tokens=special)["input_ids"]) for special in (False, True))
    places = range(len(full) - len(bare) + 1)
    return tuple(full[: next((p for p in places if full[p : p + len(bare)] == bare), 0)])


def _disagree(how: str) -> ProbeError:
    return ProbeError(
        f"{parameter('tuned')} and {parameter('base')} have tokenizers that disagree: {how}; they cannot be "
        "compared token by token."
    )


def _said(token: str, before: Mapping[str, int], after: Mapping[str, int]) -> str:
    return f"'{printable(token)}' {before[token]:,} in the base and {after[token]:,} in the tuned model"


def _short(error: BaseException | str) -> str:
    return printable(" ".join(str(error).split()))[:200]
