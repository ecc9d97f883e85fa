"""The shape of the rule files in ckptaudit/naming/families: one for all models, one more for each odd family."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

import msgspec

COMMON = "common.toml"
ANY_MODEL = "*"
"""As a model type: rules for every model whose config.json says what it is."""

Size = int | str
"""A count, or the name of one that config.json gives: see `[numbers]` in common.toml."""


class Tie(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor of `role` may be left out of a file because it shares storage with one of role `source`.

    With `stack`, with the one in that stack: an encoder may have embeddings of its own.
    """

    role: str
    source: str
    stack: str = ""


class Split(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fused tensor. Its output axis is `groups` equal runs, each holding every part in this order.

    `parts` gives the parts' relative sizes; `when`, the config flags under which the rule applies; with
    `inputs`, it applies only where config.json gives the other axis this size. Of the parts under `interleaved`
    each head's rows alternate between the two halves that rotary embeddings pair; the value counts the heads.
    """

    tensors: tuple[str, ...]
    parts: dict[str, Size]
    groups: Size = 1
    when: dict[str, bool] = {}
    inputs: str = ""
    interleaved: dict[str, Size] = {}


class Kernel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A weight stored `[in, out]`; with `inputs` or `outputs`, only if config.json gives that axis this size."""

    tensors: tuple[str, ...]
    inputs: str = ""
    outputs: str = ""


class Family(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is special about some models; matched before the common rules.

    They are those whose config.json says one of these `model_types` ("*" for any), or that have, whatever it
    says, a tensor for each of these word sequences of `names`. `aliases` are other spellings of the names:
    word sequences on the left become those on the right, `*` stands for one word, `^` for the beginning.
    `layer_stacks` are words behind which a layer's number is missing where the first axis counts layers.
    """

    model_types: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    aliases: dict[str, str] = {}
    layer_stacks: tuple[str, ...] = ()
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
    module_words: dict[str, str]
    vocabulary: tuple[str, ...]
    fused: tuple[str, ...]
    numbers: dict[str, tuple[str, ...]]
    products: dict[str, tuple[str, ...]]
    roles: dict[str, str]
    groups: dict[str, tuple[str, ...]]
    vector_groups: dict[str, tuple[str, ...]]
    primary_groups: dict[str, tuple[str, ...]]
    known: tuple[str, ...]
    split: tuple[Split, ...]
    tied: tuple[Tie, ...]


@cache
def rules() -> Rules:
    """The common rules as shipped."""
    return msgspec.toml.decode(_folder().joinpath(COMMON).read_bytes(), type=Rules)


@cache
def families() -> dict[str, Family]:
    """The families as shipped, by file name without its ending; rules for any model come last."""
    names = sorted(f.name for f in _folder().iterdir() if f.name.endswith(".toml") and f.name != COMMON)
    found = {
        name.removesuffix(".toml"): msgspec.toml.decode(_folder().joinpath(name).read_bytes(), type=Family)
        for name in names
    }
    return dict(sorted(found.items(), key=lambda item: ANY_MODEL in item[1].model_types))


def _folder() -> Traversable:
    return files("ckptaudit.naming").joinpath("families")
