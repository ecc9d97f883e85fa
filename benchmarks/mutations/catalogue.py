"""Every mutation, and those that the test suite tries again."""

from __future__ import annotations

from benchmarks.mutations import releases, tensors
from benchmarks.mutations.mutation import Mutation

REPRESENTATIVE = (
    "scale: one query matrix",
    "scale: output head",
    "noise: routers",
    "sign: embeddings",
    "zero: state space, convolution",
    "permute rows: output head",
    "rows at the base: one query matrix",
    "NaN in one entry: norms",
    "flip one bit: embeddings",
    "update times: all matrices of layers",
    "exchange: layers 1 and 2",
    "exchange: head and embeddings",
    "permute heads: queries",
    "at the base: one inner layer",
    "at the base: half of the layers",
    "stale rank: a quarter of all rows",
    "cut vocabulary: embeddings and head",
    "type float16: everything",
    "drop: one matrix",
    "config: rope_parameters.rope_theta",
    "config: tie_word_embeddings",
    "tokenizer: two tokens exchanged",
    "permute experts: all layers",
)
"""Names of one or two mutations of each kind."""


def every() -> list[Mutation]:
    """The catalogue, in the order of the page."""
    return [*tensors.mutations(), *releases.mutations()]


def representative() -> list[Mutation]:
    """What the suite tries."""
    return [mutation for mutation in every() if mutation.name in REPRESENTATIVE]
