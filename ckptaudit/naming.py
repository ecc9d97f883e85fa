"""Tensor names to layer and role. The rules are data (naming.toml); this file only applies them."""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files

import msgspec

VECTOR_GROUPS = ("norm", "bias")
GROUPS = ("all", "attention", "mlp", "embedding", "matrix", *VECTOR_GROUPS)


class Tie(msgspec.Struct, frozen=True):
    role: str
    source: str


class Rules(msgspec.Struct, frozen=True):
    layer_words: tuple[str, ...]
    stack_words: tuple[str, ...]
    suffixes: tuple[str, ...]
    aliases: dict[str, str]
    groups: dict[str, tuple[str, ...]]
    qualify: dict[str, tuple[str, ...]]
    tied: tuple[Tie, ...]


class Place(msgspec.Struct, frozen=True):
    """Where a tensor sits: `layer` counts within `stack` (empty for a plain decoder)."""

    layer: int | None
    role: str
    stack: str = ""

    @property
    def subject(self) -> str:
        """The name a per-layer verdict carries: `layers.3`, `vision_tower.layers.0`, `embed_tokens`."""
        if self.layer is None:
            return self.role
        return f"{self.stack}.layers.{self.layer}" if self.stack else f"layers.{self.layer}"


@cache
def rules() -> Rules:
    """The naming rules as shipped."""
    text = files("ckptaudit").joinpath("naming.toml").read_bytes()
    return msgspec.toml.decode(text, type=Rules)


@cache
def place(name: str) -> Place:
    """Layer, role and stack of a tensor name; every name has a place, unknown architectures too."""
    words = name.split(".")
    layer_at = _layer_position(words)
    head = words[:layer_at] if layer_at is not None else words
    stack = next((w for w in head if w in rules().stack_words), "")
    layer = int(words[layer_at]) if layer_at is not None else None
    return Place(layer=layer, role=_role(words, layer_at), stack=stack)


def in_groups(role: str, groups: tuple[str, ...], *, is_matrix: bool) -> bool:
    """Does a tensor of this role belong to any of the groups, role names or role globs?"""
    return any(_in_group(role, group, is_matrix=is_matrix) for group in groups)


def _in_group(role: str, group: str, *, is_matrix: bool) -> bool:
    if group == "all":
        return True
    if group == "matrix":
        return is_matrix
    if group == "bias":
        return role == "bias" or role.endswith(".bias")
    if group == "norm":
        return not is_matrix and not _in_group(role, "bias", is_matrix=False)
    patterns = rules().groups.get(group, (group,))
    if group in rules().groups and not is_matrix:
        return False
    return any(fnmatchcase(role, pattern) for pattern in patterns)


def _layer_position(words: list[str]) -> int | None:
    numbers = [i for i, w in enumerate(words) if w.isdecimal() and len(w) < 10]
    named = [i for i in numbers if i and words[i - 1] in rules().layer_words]
    return next(iter(named or numbers), None)


def _role(words: list[str], layer_at: int | None) -> str:
    known = rules()
    tail = [w for i, w in enumerate(words) if i != layer_at and not w.isdecimal()]
    stem = [w for w in tail if w not in known.suffixes] or tail
    role = known.aliases.get(stem[-1], stem[-1])
    if stem[-1] in known.qualify["words"] and len(stem) > 1:
        role = _qualified(stem)
    return f"{role}.bias" if words[-1] == "bias" and role != "bias" else role


def _qualified(stem: list[str]) -> str:
    """`attention.output.dense` and `output.dense` are different roles in BERT: keep both words."""
    keep = 3 if stem[-3:-1] == ["attention", "output"] else 2
    return ".".join(stem[-keep:])
