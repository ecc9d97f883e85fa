"""What config.json declares against the shapes that are stored."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ckptaudit.artifact.facts import ArtifactEvidence, Side, StoredFact, text_view
from ckptaudit.artifact.json_documents import integer_of, mapping_of
from ckptaudit.artifact.wording import capped, place
from ckptaudit.findings import Finding

LAYER = re.compile(r"(.*?(?:^|\.)(?:layers|h|layer|blocks|block))\.(\d{1,9})\..+")
BESIDE = ("mtp", "talker", "token2wav", "merger", "projector", "experts", "draft", "code_predictor")
IMAGES = (
    "visual",
    "vision",
    "vision_tower",
    "vision_model",
    "vision_encoder",
    "image_encoder",
    "vision_embed_tokens",
)
SOUNDS = ("audio", "audio_tower", "audio_model", "audio_encoder", "speech")

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth")
ENCODER = ("encoder_layers", "num_encoder_layers", "num_layers", *LAYERS)
DECODER = ("decoder_layers", "num_decoder_layers", "num_layers", *LAYERS)
HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", *HEADS)
MIDDLE = ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
EXPERT_MIDDLE = ("moe_intermediate_size",)
OTHER_EMBEDDING = ("embedding_size", "word_embed_proj_dim", "embedding_dim")


@dataclass(frozen=True, slots=True)
class Reading:
    """One number that config.json declares and that shapes show. `sure`: no architecture reads it otherwise."""

    key: str
    declared: int
    stored: int
    what: str
    sure: bool = False

    @property
    def agrees(self) -> bool:
        """Whether the stored number is the declared one."""
        return self.declared == self.stored


def config_shape_faults(evidence: ArtifactEvidence) -> tuple[Finding, ...]:
    """Layers, sizes, heads and experts that config.json of the tuned model declares otherwise than it stores.

    The base calibrates the rules: what it declares and stores differently as well is how this architecture is
    built, and no fault. Without a base's configuration only what no architecture reads otherwise is judged.
    """
    base, tuned = evidence.base, evidence.tuned
    if not tuned.has_config:
        return ()
    excepted = {r.key for r in readings(base) if not r.agrees} if base.has_config else set()
    found = [r for r in readings(tuned) if not r.agrees and r.key not in excepted]
    return capped(_finding(tuned, r) for r in found if r.sure or base.has_config)


def readings(side: Side) -> list[Reading]:
    """Every number of a side that is both declared and stored."""
    text = text_view(side.config)
    return [*_layers(side), *_sizes(side, text), *_attention(side, text), *_experts(side, text)]


def declared(config: Mapping[str, object], keys: tuple[str, ...]) -> tuple[str, int] | None:
    """The first of the keys that states a positive whole number."""
    found = ((key, integer_of(config.get(key))) for key in keys)
    return next(((key, value) for key, value in found if value is not None and value > 0), None)


def _layers(side: Side) -> Iterator[Reading]:
    for kind, stored in _stacks(side).items():
        name, config, keys = _stack_config(side.config, kind)
        stated = declared(config, keys)
        if stated is None:
            continue
        more = integer_of(config.get("num_nextn_predict_layers")) or 0
        count = stated[1] if stored == stated[1] + more else stored
        yield Reading(name + stated[0], stated[1], count, f"{stored:,} layers are stored", sure=not kind)
        kinds = config.get("layer_types")
        if isinstance(kinds, list) and not kind:
            what = f"it lists {len(kinds):,} layers, {stored:,} are stored"
            yield Reading(name + "layer_types", len(kinds), count, what)


def _stacks(side: Side) -> dict[str, int]:
    """Layers of each stack: the text's (named by nothing), an encoder's, a decoder's, the images' and sounds'."""
    found: dict[str, set[int]] = {}
    for tensor in side.tensors:
        match = LAYER.fullmatch(tensor.name)
        words = match[1].split(".") if match else ()
        if match and not any(word in BESIDE for word in words):
            found.setdefault(_kind(words), set()).add(int(match[2]))
    both = "encoder" in found and "decoder" in found
    if not both:
        found = {"" if kind in ("encoder", "decoder") else kind: own for kind, own in found.items()}
    return {kind: len(own) for kind, own in found.items()}


def _kind(words: list[str] | tuple[str, ...]) -> str:
    if any(word in IMAGES for word in words):
        return "vision"
    if any(word in SOUNDS for word in words):
        return "audio"
    return next((word for word in words if word in ("encoder", "decoder")), "")


def _stack_config(config: Mapping[str, object], kind: str) -> tuple[str, Mapping[str, object], tuple[str, ...]]:
    if kind in ("vision", "audio"):
        return f"{kind}_config.", mapping_of(config.get(f"{kind}_config")), LAYERS
    if kind in ("encoder", "decoder"):
        inner = mapping_of(config.get(kind))
        keys = ENCODER if kind == "encoder" else DECODER
        return (f"{kind}.", inner, LAYERS) if inner else ("", config, keys)
    return "", text_view(config), LAYERS


def _sizes(side: Side, text: Mapping[str, object]) -> Iterator[Reading]:
    embedding, stated = side.head.embedding, declared(text, HIDDEN)
    if embedding is not None and stated is not None and not any(key in text for key in OTHER_EMBEDDING):
        what = f"{embedding.name} has rows of {embedding.shape[1]:,}"
        yield Reading(stated[0], stated[1], embedding.shape[1], what, sure=True)
    middle = declared(text, MIDDLE)
    up = _one_shape(side, "up_proj")
    if middle is not None and up is not None:
        stored = middle[1] if middle[1] in up.shape else up.shape[0]
        yield Reading(middle[0], middle[1], stored, f"{up.name} has shape {list(up.shape)}")


def _attention(side: Side, text: Mapping[str, object]) -> Iterator[Reading]:
    heads, hidden = declared(text, HEADS), declared(text, HIDDEN)
    if heads is None or hidden is None:
        return
    size = (declared(text, ("head_dim",)) or ("", hidden[1] // heads[1]))[1]
    groups = declared(text, KV_HEADS) or heads
    for role, (key, count) in (("q_proj", heads), ("k_proj", groups), ("v_proj", groups)):
        tensor = _one_shape(side, role)
        if tensor is not None:
            what = f"{count:,} heads of {size:,} make {count * size:,} rows, {tensor.name} has {tensor.shape[0]:,}"
            yield Reading(key if role == "q_proj" else f"{key} ({role})", count * size, tensor.shape[0], what)
    fused = _one_shape(side, "qkv_proj")
    rows = (heads[1] + 2 * groups[1]) * size
    if fused is not None:
        stored = rows if rows in fused.shape else max(fused.shape)
        yield Reading(f"{groups[0]} (qkv_proj)", rows, stored, f"{fused.name} has shape {list(fused.shape)}")


def _experts(side: Side, text: Mapping[str, object]) -> Iterator[Reading]:
    count, inner = declared(text, EXPERTS), declared(text, EXPERT_MIDDLE)
    numbered = [t for t in side.tensors if t.expert is not None]
    router = _one_shape(side, "router")
    if count is not None and numbered:
        stored = len({t.expert for t in numbered})
        yield Reading(count[0], count[1], stored, f"{stored:,} experts are stored", sure=True)
    elif count is not None and router is not None:
        what = f"{router.name} has shape {list(router.shape)}"
        yield Reading(count[0], count[1], router.shape[0], what)
    up = next((t for t in numbered if len(t.shape) == 2 and t.role in ("up_proj", "w1")), None)
    if inner is not None and up is not None:
        stored = inner[1] if inner[1] in up.shape else up.shape[0]
        yield Reading(inner[0], inner[1], stored, f"{up.name} has shape {list(up.shape)}")


def _one_shape(side: Side, role: str) -> StoredFact | None:
    """A text layer's matrix of that role, if all of that role have one shape."""
    found = [
        t
        for t in side.tensors
        if t.role == role and t.layer is not None and len(t.shape) == 2 and not t.in_experts and not t.stack
    ]
    return found[0] if len({t.shape for t in found}) == 1 else None


def _finding(side: Side, reading: Reading) -> Finding:
    return Finding(
        place(side.config_file, reading.key),
        "config disagrees with the stored shapes",
        f"config.json declares {reading.declared:,}, the file holds {reading.stored:,}: {reading.what}; write the "
        "number that belongs to these weights, or export them again",
    )
