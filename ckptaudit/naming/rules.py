"""The shape of the rule files in ckptaudit/naming/families: one for all models, one more for each odd family."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

import msgspec

COMMON = "common.toml"

Size = int | str
"""A count, or the name of one that config.json gives: see `[numbers]` in common.toml."""


class Tie(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor of `role` may be left out of a file because it shares storage with one of role `source`."""

    role: str
    source: str


class Split(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fused tensor. Its output axis is `groups` equal runs, each holding every part in this order.

    `parts` gives the parts' relative sizes; `when`, the config flags under which the rule applies.
    """

    tensors: tuple[str, ...]
    parts: dict[str, Size]
    groups: Size = 1
    when: dict[str, bool] = {}


class Kernel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A weight stored `[in, out]`; with `inputs` or `outputs`, only if config.json gives that axis this size."""

    tensors: tuple[str, ...]
    inputs: str = ""
    outputs: str = ""


class Family(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is special about the models of these `model_types`; matched before the common rules."""

    model_types: tuple[str, ...]
    ties_embeddings: bool = False
    flags: dict[str, bool] = {}
    roles: dict[str, str] = {}
    split: tuple[Split, ...] = ()
    kernel: tuple[Kernel, ...] = ()
    tied: tuple[Tie, ...] = ()


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rules for every model, and the fallback for those of no known family."""

    layer_words: tuple[str, ...]
    stack_words: tuple[str, ...]
    outside_words: tuple[str, ...]
    stacked_expert_words: tuple[str, ...]
    expert_words: tuple[str, ...]
    suffixes: tuple[str, ...]
    qualified_words: tuple[str, ...]
    wrappers: tuple[str, ...]
    inner_wrappers: tuple[str, ...]
    text_configs: tuple[str, ...]
    vocabulary: tuple[str, ...]
    fused: tuple[str, ...]
    numbers: dict[str, tuple[str, ...]]
    roles: dict[str, str]
    groups: dict[str, tuple[str, ...]]
    vector_groups: dict[str, tuple[str, ...]]
    split: tuple[Split, ...]
    tied: tuple[Tie, ...]


@cache
def rules() -> Rules:
    """The common rules as shipped."""
    return msgspec.toml.decode(_folder().joinpath(COMMON).read_bytes(), type=Rules)


@cache
def families() -> dict[str, Family]:
    """The families as shipped, by file name without its ending."""
    found = sorted(f.name for f in _folder().iterdir() if f.name.endswith(".toml") and f.name != COMMON)
    return {
        name.removesuffix(".toml"): msgspec.toml.decode(_folder().joinpath(name).read_bytes(), type=Family)
        for name in found
    }


def _folder() -> Traversable:
    return files("ckptaudit.naming").joinpath("families")
