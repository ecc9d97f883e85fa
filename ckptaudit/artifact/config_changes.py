"""The tuned configuration against the base's: what would make the same weights compute something else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ckptaudit.artifact.config_defaults import class_defaults
from ckptaudit.artifact.config_keys import ON_BY_DEFAULT, USUAL, decides_behaviour, is_neutral, is_strict
from ckptaudit.artifact.config_values import NAMED_PARTS, leaves
from ckptaudit.artifact.dtypes import QUANTISED
from ckptaudit.artifact.facts import TEXT_CONFIGS, ArtifactEvidence, Side, text_view
from ckptaudit.artifact.json_documents import mapping_of
from ckptaudit.artifact.wording import capped, listed, place, shown
from ckptaudit.findings import Finding

ABSENT = object()
INERT = {"sliding_window": "use_sliding_window", "max_window_layers": "use_sliding_window"}
"""Keys that mean nothing unless another one is true."""


def config_changes(evidence: ArtifactEvidence) -> tuple[Finding, ...]:
    """Keys of config.json in which the tuned model differs from its base.

    Left out are keys that cannot change the model's numbers, keys with a metric of their own, and keys that only
    one file states, at a value that absence means as well. Nothing to compare where a side has no config.json.
    """
    base, tuned = evidence.base, evidence.tuned
    if not (base.has_config and tuned.has_config):
        return ()
    before, after = leaves(base.config), leaves(tuned.config)
    same_release = _release(base) is not ABSENT and _release(base) == _release(tuned)
    names = [name for name in {**before, **after} if name not in TEXT_CONFIGS]
    changed = (n for n in names if _differs(n, before, after, same_release=same_release, sides=evidence))
    found = (_finding(tuned, name, before.get(name, ABSENT), after.get(name, ABSENT)) for name in changed)
    return capped([*_unscaled(tuned), *found])


def _unscaled(side: Side) -> Iterator[Finding]:
    """Scales beside float8 weights, and nothing that would make a reader multiply by them."""
    scaled = [t.name for t in side.tensors if t.scaled]
    if scaled and not mapping_of(side.config.get(QUANTISED)):
        detail = (
            f"{len(scaled):,} weights are stored as float8 with scales beside them ({listed(scaled)}), and without "
            "this key loaders take the float8 numbers for the weights; write the quantisation there, as the base "
            "or the exporter has it"
        )
        yield Finding(place(side.config_file, QUANTISED), "quantised weights that nothing declares", detail)


def _release(side: Side) -> object:
    return side.config.get("transformers_version", ABSENT)


def _differs(
    name: str,
    before: Mapping[str, object],
    after: Mapping[str, object],
    *,
    same_release: bool,
    sides: ArtifactEvidence,
) -> bool:
    one, other = before.get(name, ABSENT), after.get(name, ABSENT)
    if one is not ABSENT and other is not ABSENT:
        return not _equal(one, other) and not _is_inert(name, before, after)
    stated, full = (other, after) if one is ABSENT else (one, before)
    bare = before if one is ABSENT else after
    if isinstance(stated, bool) and (default := _switch_by_default(name, sides)) is not None:
        return stated is not default
    if is_neutral(stated) or _is_usual(name, stated) or _is_inert(name, before, after):
        return False
    if _is_implied(name, stated, full, bare, sides) or _is_default(name, stated, bare, sides):
        return False
    return same_release or _is_said(name, one, bare, sides)


def _switch_by_default(name: str, sides: ArtifactEvidence) -> bool | None:
    """What the absence of a switch means; None where neither the class nor its code is known to say."""
    known = class_defaults(sides.base.config)
    if name.rpartition(".")[2] in ON_BY_DEFAULT or (known is not None and known.get(name) is True):
        return True
    return False if known is not None and is_strict(name) and name not in known else None


def _is_default(name: str, value: object, bare: Mapping[str, object], sides: ArtifactEvidence) -> bool:
    known = class_defaults(sides.base.config) or {}
    return name in known and _equal(known[name], value) and not _is_of_stated_rope(name, bare)


def _is_of_stated_rope(name: str, bare: Mapping[str, object]) -> bool:
    """Whether the other side states more of this position embedding, which then stands for the class's own."""
    group, _, key = name.rpartition(".")
    others = (other.rpartition(".") for other in bare)
    return (
        name.startswith("rope.")
        and key != "theta"
        and any(at == group and last != "theta" for at, _, last in others)
    )


def _is_said(name: str, before: object, bare: Mapping[str, object], sides: ArtifactEvidence) -> bool:
    """Whether a key that one file lacks is a change although another release wrote it."""
    if before is not ABSENT:
        return decides_behaviour(name)
    if name.startswith("rope.") and any(key.startswith("rope.") for key in bare):
        return True
    if name in NAMED_PARTS or name.startswith("auto_map."):
        return True
    return is_strict(name) and class_defaults(sides.base.config) is not None


def _equal(one: object, other: object) -> bool:
    if isinstance(one, bool) != isinstance(other, bool) and not (is_neutral(one) and is_neutral(other)):
        return False
    both_neutral = is_neutral(one) and is_neutral(other) and (one is None or other is None)
    return one == other or both_neutral or (one != one and other != other)


def _is_usual(name: str, value: object) -> bool:
    key = name.rpartition(".")[2]
    key = {"theta": "rope_theta"}.get(key, key) if ".rope." in f".{name}" else key
    return value in USUAL.get(key, ()) or (".rope." in f".{name}" and key == "type" and value == "default")


def _is_inert(name: str, before: Mapping[str, object], after: Mapping[str, object]) -> bool:
    switch = INERT.get(name)
    stated = [side[switch] for side in (before, after) if switch in side] if switch else []
    return bool(stated) and not any(stated)


def _is_implied(
    name: str, value: object, full: Mapping[str, object], bare: Mapping[str, object], sides: ArtifactEvidence
) -> bool:
    """Whether the other side's file says the same in other keys."""
    if name.startswith("rope."):
        return _is_same_rope(name, value, bare)
    heads, hidden = bare.get("num_attention_heads"), bare.get("hidden_size")
    if name == "head_dim" and isinstance(heads, int) and isinstance(hidden, int) and heads > 0:
        return value == hidden // heads
    if name == "num_key_value_heads":
        return value == heads
    if name == "layer_types" and isinstance(value, list):
        known = class_defaults(sides.base.config) or {}
        window = bare.get("sliding_window", known.get("sliding_window")) or bare.get("sliding_window_pattern")
        return len(value) == bare.get("num_hidden_layers") and (
            bool(window) or set(map(str, value)) == {"full_attention"}
        )
    if name == "sliding_window_pattern":
        return "layer_types" in bare
    return _is_outer(name, value, sides)


def _is_same_rope(name: str, value: object, bare: Mapping[str, object]) -> bool:
    """Parameters of one kind of layer against parameters of all: equal where the value is."""
    words = name.split(".")
    rest = [v for n, v in bare.items() if n.startswith("rope.") and n.split(".")[-1] == words[-1]]
    return bool(rest) and all(_equal(value, v) for v in rest)


def _is_outer(name: str, value: object, sides: ArtifactEvidence) -> bool:
    """Whether a nested key repeats what the other side's text part or outer part says."""
    key = name.rpartition(".")[2]
    views = (text_view(sides.base.config), text_view(sides.tuned.config))
    return "." not in name and all(key in view and view[key] == value for view in views)


def _finding(side: Side, name: str, before: object, after: object) -> Finding:
    key = name.replace("rope.", "rope_parameters.", 1) if name.startswith("rope.") else name
    then = "nothing" if before is ABSENT else shown(before)
    now = "nothing" if after is ABSENT else shown(after)
    at = _first_difference(before, after)
    return Finding(
        place(side.config_file, key),
        "config differs from the base",
        f"the base says {then}, the tuned model {now}{at}; copy the base's value, unless training itself used "
        "the new one",
    )


def _first_difference(before: object, after: object) -> str:
    if not (isinstance(before, list) and isinstance(after, list)):
        return ""
    if len(before) != len(after):
        return f" ({len(before):,} against {len(after):,} entries)"
    at = next(i for i, (one, other) in enumerate(zip(before, after, strict=True)) if one != other)
    return f" (first at entry {at}: {shown(before[at])} against {shown(after[at])})"
