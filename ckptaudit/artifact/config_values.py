"""A configuration as flat pairs of key and value, with what releases of transformers write in two ways made one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ckptaudit.artifact.config_keys import ROPE, has_own_metric, is_harmless
from ckptaudit.artifact.facts import TEXT_CONFIGS
from ckptaudit.artifact.json_documents import mapping_of, text_of

NAMED_PARTS = ("model_type", "architectures")
LAYER_KINDS = ("full_attention", "sliding_attention", "chunked_attention")
DEFAULT_ROPE = ("default", "mrope")
MAX_LEAVES = 20_000


def leaves(config: Mapping[str, object]) -> dict[str, object]:
    """What is to be compared: dotted key to value.

    The text part of a multimodal model and the same keys beside it are one; the position embedding's keys are
    brought into one form, whether written as `rope_theta` and `rope_scaling` or as `rope_parameters`.
    """
    found: dict[str, object] = {}
    for path, part in _parts(config):
        found |= {_own(path, key, found): value for key, value in _plain(path, part)}
        found |= {_dotted(path, f"rope.{key}"): value for key, value in rope(part).items()}
        if len(found) > MAX_LEAVES:
            break
    return found


def rope(config: Mapping[str, object]) -> dict[str, object]:
    """The position embedding's parameters: `theta`, `type` and the rest, with the kind of layer before them."""
    stated = mapping_of(config.get("rope_parameters"))
    kinds = {kind: part for kind, part in stated.items() if isinstance(part, dict)}
    if kinds:
        return {f"{kind}.{k}": v for kind, part in kinds.items() for k, v in _rope_part(part, {}).items()}
    found = _rope_part(stated or mapping_of(config.get("rope_scaling")), config)
    local = config.get("rope_local_base_freq")
    if local is None:
        return found
    return {f"full_attention.{k}": v for k, v in found.items()} | {"sliding_attention.theta": local}


def _rope_part(part: Mapping[str, object], config: Mapping[str, object]) -> dict[str, object]:
    theta = part.get(
        "rope_theta", next((config[k] for k in ("rope_theta", "rotary_emb_base") if k in config), None)
    )
    share = part.get("partial_rotary_factor", config.get("partial_rotary_factor", config.get("rotary_pct")))
    kind = part.get("rope_type", part.get("type", "default"))
    rest = {k: v for k, v in part.items() if k not in ("rope_theta", "rope_type", "type", "partial_rotary_factor")}
    named = {"theta": theta, "type": None if kind in DEFAULT_ROPE else kind, "partial_rotary_factor": share}
    return {k: v for k, v in {**rest, **named}.items() if v is not None}


def _parts(config: Mapping[str, object]) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The configuration and its nested parts, outer before inner; a text part has the outer one's place."""
    waiting: list[tuple[str, Mapping[str, object]]] = [("", config)]
    while waiting:
        path, part = waiting.pop(0)
        yield path, part
        inner = [(k, mapping_of(v)) for k, v in part.items() if isinstance(v, dict) and not _is_compared(k)]
        waiting += [(path if not path and k in TEXT_CONFIGS else _dotted(path, k), v) for k, v in inner]


def _is_compared(key: str) -> bool:
    """Objects that are no part of their own: left out, or compared elsewhere."""
    return is_harmless(key) or has_own_metric(key) or _is_rope(key)


def _is_rope(key: str) -> bool:
    return key in ROPE


def _plain(path: str, part: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    names_code = path.rpartition(".")[2] == "auto_map"
    for key, value in part.items():
        if not isinstance(value, dict) and not _is_compared(key):
            yield key, _repository_free(value) if names_code else value


def _repository_free(value: object) -> object:
    return text_of(value).rpartition("--")[2] or value


def _own(path: str, key: str, found: Mapping[str, object]) -> str:
    """A text part has an outer part's place, but for what names the model."""
    is_inner_name = not path and key in NAMED_PARTS and key in found
    return f"{TEXT_CONFIGS[0]}.{key}" if is_inner_name else _dotted(path, key)


def _dotted(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
