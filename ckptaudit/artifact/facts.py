"""The evidence of the artifact: what the files beside the tensors say, read once, as frozen records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ckptaudit.artifact.json_documents import JsonDocument, TextDocument, mapping_of
from ckptaudit.artifact.listing import Entry

EMPTY: Mapping[str, object] = {}
RELEASES = ("safetensors", "torch")
"""Formats that models are released in; the others are a trainer's own saves, with all that training needs."""

TEXT_CONFIGS = ("text_config", "llm_config", "language_config")


@dataclass(frozen=True, slots=True)
class StoredFact:
    """One tensor as the file stores it: its type is the file's, also where readers widen it (float8)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: str
    layer: int | None = None
    stack: str = ""
    in_experts: bool = False
    expert: int | None = None
    scaled: bool = False
    """Whether the files hold scales by which its numbers have to be multiplied."""

    @property
    def is_float(self) -> bool:
        """Whether it holds floating-point numbers."""
        return "float" in self.dtype


@dataclass(frozen=True, slots=True)
class HeadFact:
    """The output head and the input embedding, and whether they hold the same numbers (None: not both stored)."""

    head: StoredFact | None = None
    embedding: StoredFact | None = None
    equal: bool | None = None


@dataclass(frozen=True, slots=True)
class OtherWeights:
    """Weights of the same folder that were not opened: their file, and how they differ from those that were."""

    file: str
    difference: str
    loads_first: bool = False
    """Whether transformers takes this file before the one that was opened."""


@dataclass(frozen=True, slots=True)
class IndexFact:
    """A shard index against the shards: names it lists, names that lie beside it, tensors that it does not list."""

    file: str
    absent: tuple[str, ...] = ()
    unnamed: tuple[str, ...] = ()
    unlisted: tuple[tuple[str, str], ...] = ()
    """(tensor, shard): what a shard holds and the index does not say to take from it."""


@dataclass(frozen=True, slots=True)
class TokenizerFact:
    """A tokenizer as far as files tell without running it."""

    file: str = ""
    ids: Mapping[str, int] = field(default_factory=dict)
    added: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    merges: tuple[object, ...] = ()
    scores: tuple[object, ...] = ()
    parts: Mapping[str, object] = field(default_factory=dict)
    """normalizer, pre_tokenizer, post_processor, decoder, and what the model says besides its vocabulary."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Hashes of the files that are no JSON: `tokenizer.model`, `*.tiktoken`."""
    special: Mapping[str, str] = field(default_factory=dict)
    """bos_token, eos_token, pad_token, unk_token and the like, by name."""
    whole: frozenset[str] = frozenset()
    """Every text that is cut out whole before the rest is tokenized: added and special tokens of all files."""

    @property
    def is_there(self) -> bool:
        """Whether any file of a vocabulary was found."""
        return bool(self.ids or self.digests)


@dataclass(frozen=True, slots=True)
class RankFact:
    """One tensor that every rank stores complete, or that the export beside them stores, and how they differ."""

    tensor: str
    file: str
    difference: str


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the audit: its folder's files and its tensors' headers.

    `config_file` is the configuration's path as the user sees it from the checkpoint's folder; empty where
    there is none. `is_adapter`: the folder holds an adapter, whose configuration and weights are the base's.
    """

    path: str
    format: str
    is_adapter: bool = False
    config_file: str = ""
    config: Mapping[str, object] = field(default_factory=dict)
    documents: Mapping[str, JsonDocument] = field(default_factory=dict)
    texts: Mapping[str, TextDocument] = field(default_factory=dict)
    entries: Mapping[str, Entry] = field(default_factory=dict)
    tensors: tuple[StoredFact, ...] = ()
    head: HeadFact = field(default_factory=HeadFact)
    tokenizer: TokenizerFact = field(default_factory=TokenizerFact)
    templates: Mapping[str, str] = field(default_factory=dict)
    """Chat templates by name, `default` first of all."""
    template_files: Mapping[str, str] = field(default_factory=dict)
    other_weights: tuple[OtherWeights, ...] = ()
    indexes: tuple[IndexFact, ...] = ()
    ranks: tuple[RankFact, ...] = ()
    prefix: str = ""
    """Where the documents lie as seen from the checkpoint's folder: empty, or `huggingface/`."""

    @property
    def has_config(self) -> bool:
        """Whether the folder has a configuration of its own."""
        return bool(self.config_file)

    def document(self, name: str) -> Mapping[str, object]:
        """The contents of a JSON file; empty where it is missing or unreadable."""
        found = self.documents.get(name)
        return found.value if found is not None else EMPTY

    def has(self, name: str) -> bool:
        """Whether a JSON file of that name is there and was read."""
        found = self.documents.get(name)
        return found is not None and not found.problem

    def label(self, name: str) -> str:
        """The file as seen from the checkpoint's folder."""
        return self.prefix + name


@dataclass(frozen=True, slots=True)
class ArtifactEvidence:
    """Both sides of the audit as artifacts. Every metric of the artifact is a pure function of this."""

    base: Side
    tuned: Side


def text_view(config: Mapping[str, object]) -> Mapping[str, object]:
    """What a configuration says about the language model: a multimodal model's text part over the rest."""
    inner = next((mapping_of(config[k]) for k in TEXT_CONFIGS if mapping_of(config.get(k))), EMPTY)
    return {**config, **inner} if inner else config
