"""Where a tensor sits, read off its name: layer, role and stack. Names of unknown models have a place too."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import lru_cache

import msgspec

from ckptaudit.naming.groups import GROUPS, in_groups
from ckptaudit.naming.rules import rules

__all__ = [
    "GROUPS",
    "Place",
    "Roles",
    "ends_in",
    "in_groups",
    "pattern_of",
    "place",
    "place_of_weight",
    "short_name",
    "stem_of",
]

Roles = tuple[tuple[str, str], ...]
"""Name endings and the roles they mean, in the order in which they are asked."""

STEM_WORDS, STEM_LENGTH = 4, 200

_NUMBER_INSIDE = re.compile(r"(?:^|(?<=\.))[0-9]{1,9}(?=\.)")

MTP = "mtp"
"""How names of multi-token prediction begin: `mtp`, `mtp_layers`, `mtp_block`."""


class Place(msgspec.Struct, frozen=True):
    """Where a tensor sits: `layer` counts within `stack` (empty for a plain decoder).

    `expert` is the number of the routed expert it belongs to; None for a stack of them all.
    """

    layer: int | None
    role: str
    stack: str = ""
    in_experts: bool = False
    expert: int | None = None

    @property
    def subject(self) -> str:
        """The name a per-layer verdict carries: `layers.3`, `vision_tower.layers.0`, `embed_tokens`."""
        where = self.role.removesuffix(".bias") if self.layer is None else f"layers.{self.layer}"
        return f"{self.stack}.{where}" if self.stack else where


class _Analysis(msgspec.Struct, frozen=True):
    """What names that differ in numbers alone share: where their numbers stand, and the rest of a place."""

    layer_at: int | None
    expert_at: int | None
    role: str
    stack: str
    in_experts: bool


def place(name: str, roles: Roles = ()) -> Place:
    """The place of a tensor name; `roles` are a family's, asked before the common ones."""
    found, words = _analysis(pattern_of(name), roles), name.split(".")
    return Place(
        layer=None if found.layer_at is None else int(words[found.layer_at]),
        role=found.role,
        stack=found.stack,
        in_experts=found.in_experts,
        expert=None if found.expert_at is None else int(words[found.expert_at]),
    )


def pattern_of(name: str) -> str:
    """The name with 0 for each number inside: what it has in common with the names of other layers and experts.

    Where a number is a part of the role, the name itself.
    """
    pattern = _NUMBER_INSIDE.sub("0", name)
    return name if _role_has_number(pattern) else pattern


@lru_cache(maxsize=4096)
def _role_has_number(name: str) -> bool:
    words = name.split(".")
    return _outside_position(words) is not None or _is_number(_stem_words(words, _layer_position(words))[-1])


@lru_cache(maxsize=4096)
def _analysis(name: str, roles: Roles) -> _Analysis:
    words = name.split(".")
    layer_at = _layer_position(words)
    head = _stem_words(words, None)[:-1] if layer_at is None else words[:layer_at]
    return _Analysis(
        layer_at=layer_at,
        expert_at=_expert_position(words),
        role=_role(words, layer_at, roles),
        stack=_stack(head),
        in_experts=any(w in rules().expert_words for w in words),
    )


def place_of_weight(name: str, roles: Roles = ()) -> Place:
    """The place of a weight by the name that reports use: `c_attn.weight[k_proj]`, `gate_up_proj[up_proj][3]`.

    A role in brackets is the one that was measured; a number there is an expert of a stack.
    """
    stored, *shares = name.removesuffix("]").replace("][", "[").split("[")
    where = place(stored, roles)
    role = next((share for share in shares if not _is_number(share)), "")
    expert = next((int(share) for share in shares if _is_number(share)), where.expert)
    role = f"{role}.bias" if role and where.role.endswith(".bias") else role
    return Place(where.layer, role or where.role, where.stack, where.in_experts, expert)


def short_name(place: Place) -> str:
    """A place in few letters: `L3 down_proj`, `L3 expert 7 up_proj`, `visual L0 k_proj`."""
    stack = f"{place.stack} " if place.stack else ""
    layer = "" if place.layer is None else f"L{place.layer} "
    expert = "" if place.expert is None else f"expert {place.expert} "
    return f"{stack}{layer}{expert}{place.role}"


@lru_cache(maxsize=64)
def stem_of(name: str) -> str:
    """The last words of a name without layer, expert and `.weight` and the like: what the globs see."""
    words = name.split(".")
    return _joined(_stem_words(words, _layer_position(words)))


def ends_in(stem: str, pattern: str) -> bool:
    """Whether the last words of a stem match a glob."""
    return fnmatchcase(f".{stem}", f"*.{pattern}")


def _is_number(word: str) -> bool:
    # Digits of other scripts are decimal to str, and a hostile name may hold millions of digits.
    return word.isascii() and word.isdecimal() and len(word) < 10


def _stack(head: list[str]) -> str:
    """The first word before the layer that names a stack; layers that predict further tokens are one, `mtp`."""
    words = (MTP if w.startswith(MTP) or w.startswith("nextn") else w for w in head)
    return next((w for w in words if w in rules().stack_words), "")


def _layer_position(words: list[str]) -> int | None:
    known, expert_at = rules(), _expert_position(words)
    end = _outside_position(words)
    numbers = [i for i, w in enumerate(words[:end]) if _is_number(w) and i != expert_at]
    named = [i for i in numbers if i and words[i - 1] in known.layer_words]
    return next(iter(named or numbers), None)


def _outside_position(words: list[str]) -> int | None:
    return next((i for i, w in enumerate(words) if w in rules().outside_words), None)


def _expert_position(words: list[str]) -> int | None:
    behind = (i + 1 for i, w in enumerate(words[:-1]) if w in rules().stacked_expert_words)
    return next((i for i in behind if _is_number(words[i])), None)


def _role(words: list[str], layer_at: int | None, roles: Roles) -> str:
    stem = _stem_words(words, layer_at)
    role = _outside_role(words, layer_at) or _role_in_module(words, layer_at, stem, roles)
    return f"{role}.bias" if words[-1] == "bias" and role != "bias" else role


def _role_in_module(words: list[str], layer_at: int | None, stem: list[str], roles: Roles) -> str:
    """The role, with the module before it where the same words mean something else in it: `cross_attn.q_proj`."""
    role = _alias(_joined(stem), roles) or _own_words(stem)
    modules = rules().module_words
    inside = [modules[w] for w in words[(layer_at or 0) :] if w in modules]
    if not inside or role.startswith(f"{inside[-1]}."):
        return role
    return f"{inside[-1]}.{role.rpartition('.')[2] if role.partition('.')[0] in modules else role}"


def _stem_words(words: list[str], layer_at: int | None) -> list[str]:
    kept = [w for i, w in enumerate(words) if i != layer_at and w not in rules().suffixes]
    inner = [w for w in kept[:-1] if not _is_number(w)]
    return [*inner, *kept[-1:]] or words[-1:]


def _joined(stem: list[str]) -> str:
    # No rule looks further back; a hostile name of a megabyte must not meet a hundred globs.
    return ".".join(stem[-STEM_WORDS:])[-STEM_LENGTH:]


@lru_cache(maxsize=4096)
def _alias(stem: str, roles: Roles) -> str | None:
    candidates = (*roles, *rules().roles.items())
    return next((role for tail, role in candidates if ends_in(stem, tail)), None)


def _own_words(stem: list[str]) -> str:
    """The last word, with the one before it where it says too little alone."""
    says_little = stem[-1] in rules().qualified_words or _is_number(stem[-1])
    return ".".join(stem[-2:] if says_little else stem[-1:])


def _outside_role(words: list[str], layer_at: int | None) -> str | None:
    """Inside a projector or patch embedding a number counts modules, not layers: the role keeps it."""
    at = _outside_position(words)
    if at is None or layer_at is not None:
        return None
    return ".".join(w for w in words[at:] if w not in rules().suffixes)
