"""Damages to the evidence of the artifact: one for each quantity, under which it must report a finding.

Each is a pure function of the evidence; no file is touched, and what it was given stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ckptaudit.artifact.facts import (
    ArtifactEvidence,
    HeadFact,
    IndexFact,
    OtherWeights,
    RankFact,
    Side,
    StoredFact,
    TokenizerFact,
)
from ckptaudit.artifact.json_documents import JsonDocument
from ckptaudit.artifact.listing import Entry

Damage = Callable[[ArtifactEvidence], ArtifactEvidence]

DAMAGES: dict[str, Damage] = {}
"""Damages by name. Where one breaks a second quantity as well, its description says so."""


def damage(function: Callable[[ArtifactEvidence], Side]) -> Damage:
    """Register a damage: the evidence to the damaged tuned side."""

    def damaged(evidence: ArtifactEvidence) -> ArtifactEvidence:
        return replace(evidence, tuned=function(evidence))

    damaged.__name__, damaged.__doc__ = function.__name__, function.__doc__
    DAMAGES[function.__name__] = damaged
    return damaged


@damage
def truncate_tokenizer_json(evidence: ArtifactEvidence) -> Side:
    """tokenizer.json is cut in the middle and no longer JSON."""
    document = JsonDocument("tokenizer.json", problem="Expecting value: line 1 column 1 (char 0)")
    return replace(evidence.tuned, documents={**evidence.tuned.documents, "tokenizer.json": document})


@damage
def lose_tokenizer_config(evidence: ArtifactEvidence) -> Side:
    """tokenizer_config.json was not copied into the release."""
    kept = {n: d for n, d in evidence.tuned.documents.items() if n != "tokenizer_config.json"}
    return replace(evidence.tuned, documents=kept)


@damage
def leave_only_weights(evidence: ArtifactEvidence) -> Side:
    """The folder holds config.json and weights alone; breaks nothing else, since nothing else is there."""
    tuned = evidence.tuned
    kept = {n: d for n, d in tuned.documents.items() if n == "config.json"}
    return replace(tuned, documents=kept, texts={}, tokenizer=TokenizerFact(), templates={}, template_files={})


@damage
def tie_by_flag(evidence: ArtifactEvidence) -> Side:
    """tie_word_embeddings becomes true, while a head that differs from the embeddings is stored."""
    tuned = _with_config(evidence.tuned, tie_word_embeddings=True)
    embedding = tuned.head.embedding or StoredFact("model.embed_tokens.weight", (8, 4), "bfloat16", "embed_tokens")
    head = tuned.head.head or StoredFact("lm_head.weight", embedding.shape, embedding.dtype, "lm_head")
    return replace(tuned, head=HeadFact(head, embedding, equal=False))


@damage
def declare_fewer_layers(evidence: ArtifactEvidence) -> Side:
    """config.json declares one layer less than is stored; breaks config_changes too."""
    declared = evidence.tuned.config.get("num_hidden_layers")
    count = declared if isinstance(declared, int) else 2
    return _with_config(evidence.tuned, num_hidden_layers=count - 1)


@damage
def change_rope_theta(evidence: ArtifactEvidence) -> Side:
    """The base of the rotary position embedding is ten times the base model's."""
    return _with_config(evidence.tuned, rope_parameters={"rope_type": "default", "rope_theta": 123456.0})


@damage
def declare_larger_vocabulary(evidence: ArtifactEvidence) -> Side:
    """vocab_size grows by 28 without any new row."""
    rows = evidence.tuned.head.embedding.shape[0] if evidence.tuned.head.embedding else 0
    return _with_config(evidence.tuned, vocab_size=rows + 28)


@damage
def declare_other_dtype(evidence: ArtifactEvidence) -> Side:
    """config.json declares float64, which the weights are not."""
    kept = {k: v for k, v in evidence.tuned.config.items() if k != "torch_dtype"}
    return _with_config(replace(evidence.tuned, config=kept), dtype="float64")


@damage
def store_one_tensor_wider(evidence: ArtifactEvidence) -> Side:
    """One layer's matrix is stored as float64 among others of their common type."""
    at = next(i for i, t in enumerate(evidence.tuned.tensors) if t.layer is not None and t.is_float)
    return _with_tensors(evidence.tuned, {at: "float64"})


@damage
def export_as_float64(evidence: ArtifactEvidence) -> Side:
    """Every weight is stored as float64; breaks dtype_faults too where config.json declares a type."""
    floats = {i: "float64" for i, t in enumerate(evidence.tuned.tensors) if t.is_float}
    return _with_tensors(evidence.tuned, floats)


@damage
def add_stale_weights(evidence: ArtifactEvidence) -> Side:
    """The weights of an earlier save lie beside the index, and are what transformers loads."""
    stale = OtherWeights("model.safetensors", "lm_head.weight holds other numbers", loads_first=True)
    return replace(evidence.tuned, other_weights=(*evidence.tuned.other_weights, stale))


@damage
def add_unnamed_shard(evidence: ArtifactEvidence) -> Side:
    """A shard of another save lies in the folder, and no index names it."""
    fact = IndexFact("model.safetensors.index.json", unnamed=("model-00003-of-00007.safetensors",))
    return replace(evidence.tuned, indexes=(*evidence.tuned.indexes, fact))


@damage
def leave_adapter(evidence: ArtifactEvidence) -> Side:
    """The adapter that was merged still lies beside the weights."""
    return _with_entries(evidence.tuned, {"adapter_config.json": Entry("file", 900)})


@damage
def leave_optimizer(evidence: ArtifactEvidence) -> Side:
    """optimizer.pt was uploaded with the weights, without anything else of the trainer's save."""
    kept = {n: e for n, e in evidence.tuned.entries.items() if n not in ("trainer_state.json", "scheduler.pt")}
    return _with_entries(replace(evidence.tuned, entries=kept), {"optimizer.pt": Entry("file", 10_000)})


@damage
def leave_factors_unmerged(evidence: ArtifactEvidence) -> Side:
    """The state dict holds a LoRA factor beside the weights."""
    factor = StoredFact("model.layers.0.self_attn.q_proj.lora_A.default.weight", (8, 192), "float32", "lora_A", 0)
    return replace(evidence.tuned, tensors=(*evidence.tuned.tensors, factor))


@damage
def keep_compiled_names(evidence: ArtifactEvidence) -> Side:
    """The state dict is that of a compiled model, with `_orig_mod.` before every name."""
    tensors = tuple(replace(t, name=f"_orig_mod.{t.name}") for t in evidence.tuned.tensors)
    return replace(evidence.tuned, tensors=tensors)


@damage
def exchange_two_tokens(evidence: ArtifactEvidence) -> Side:
    """The last two tokens of the vocabulary exchange their ids; special tokens come first and keep theirs."""
    tokenizer = evidence.tuned.tokenizer
    (one, first), (other, second) = sorted(tokenizer.ids.items(), key=lambda pair: pair[1])[-2:]
    return replace(evidence.tuned, tokenizer=replace(tokenizer, ids={**tokenizer.ids, one: second, other: first}))


@damage
def change_end_token(evidence: ArtifactEvidence) -> Side:
    """config.json names another token as the end of a text."""
    return _with_config(evidence.tuned, eos_token_id=3)


@damage
def replace_chat_template(evidence: ArtifactEvidence) -> Side:
    """The chat template is one that no model was trained with."""
    tuned = evidence.tuned
    return replace(
        tuned,
        templates={**tuned.templates, "default": "{{ messages }}"},
        template_files={**tuned.template_files, "default": "chat_template.jinja"},
    )


@damage
def raise_temperature(evidence: ArtifactEvidence) -> Side:
    """generation_config.json samples at a temperature of 1.7."""
    tuned, name = evidence.tuned, "generation_config.json"
    document = JsonDocument(name, {**tuned.document(name), "do_sample": True, "temperature": 1.7})
    return replace(tuned, documents={**tuned.documents, name: document})


@damage
def desynchronise_ranks(evidence: ArtifactEvidence) -> Side:
    """One rank stores another final norm than the others."""
    fact = RankFact("model.norm.weight", "model_world_size_2_rank_1.pt", "it differs from rank 0's")
    return replace(evidence.tuned, ranks=(*evidence.tuned.ranks, fact))


def _with_config(side: Side, **changes: object) -> Side:
    config = {**side.config, **changes}
    if "rope_parameters" in changes:
        config = {k: v for k, v in config.items() if k not in ("rope_theta", "rope_scaling")}
    return replace(side, config=config, config_file=side.config_file or "config.json")


def _with_tensors(side: Side, dtypes: Mapping[int, str]) -> Side:
    tensors = tuple(replace(t, dtype=dtypes.get(i, t.dtype)) for i, t in enumerate(side.tensors))
    return replace(side, tensors=tensors)


def _with_entries(side: Side, entries: Mapping[str, Entry]) -> Side:
    return replace(side, entries={**side.entries, **entries})


DESCRIPTIONS: Mapping[str, str] = {name: damaged.__doc__ or "" for name, damaged in DAMAGES.items()}
"""What each does."""
