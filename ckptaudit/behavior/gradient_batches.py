"""Gradients of sample after sample, several in one pass where the model and the memory allow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, sqrt

import torch
from torch import Tensor

from ckptaudit.behavior.models import LanguageModel, Sample
from ckptaudit.errors import CollectionError, parameter, printable

DEFAULT_SIZE = 8
MEMORY = 2**32
"""About what the default batch may take, in bytes; it does not look at the machine, so that reruns agree."""

AGREEMENT = 1e-3
"""How far a gradient may be off in a batch, in its own length: rounding stays below, seen padding does not."""

FAILURES = (RuntimeError, TypeError, ValueError, IndexError, AttributeError)
"""What a vectorised pass through a model that was not written for one ends in."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Taken:
    """One sample's gradients and loss; `ends` if it is its batch's last, `size` what the next batch may be."""

    gradients: Mapping[str, Tensor]
    loss: float
    ends: bool
    size: int


def longest_first(samples: Sequence[Sample]) -> list[int]:
    """The samples' indices such that neighbours differ little in length, and the costliest come first."""
    return sorted(range(len(samples)), key=lambda index: -len(samples[index].tokens))


def default_size(model: LanguageModel, samples: Sequence[Sample], weights: Mapping[str, Tensor]) -> int:
    """As many as fit the default's memory, by an estimate for the longest sample."""
    most = max(model.bytes_of(sample, weights) for sample in samples)
    return max(1, min(DEFAULT_SIZE, MEMORY // most))


def settled_size(
    model: LanguageModel, samples: Sequence[Sample], weights: Mapping[str, Tensor], size: int, say: Say
) -> int:
    """`size`, or 1 if the model cannot take samples together or padding changes what it computes."""
    if min(size, len(samples)) == 1:
        return 1
    ordered = [samples[index] for index in longest_first(samples)]
    try:
        off = _disagreement(model, ordered[-1], ordered[0], weights)
    except FAILURES as error:
        if not _out_of_memory(error):
            say(_alone_because(error))
        return 1
    if off > AGREEMENT:
        say("probes are taken one at a time: this model's gradients are others where a probe is padded.")
        return 1
    return size


def taken(
    model: LanguageModel, samples: Sequence[Sample], weights: Mapping[str, Tensor], size: int, say: Say
) -> Iterator[Taken]:
    """Every sample in turn. A batch that does not fit is halved, one that fails is taken apart, both for good.

    Raises CollectionError.
    """
    start = 0
    while start < len(samples):
        batch = samples[start : start + size]
        try:
            gradients, losses = model.gradients(batch, weights)
        except (*FAILURES, CollectionError) as error:
            size = _smaller(len(batch), error, say)
            continue
        start += len(batch)
        for row, loss in enumerate(losses):
            of_one = {name: stack[row] for name, stack in gradients.items()}
            yield Taken(of_one, loss, row == len(batch) - 1, size)
        # The next batch should not have to stand beside this one.
        del gradients, of_one


def _smaller(size: int, error: Exception, say: Say) -> int:
    if not _out_of_memory(error):
        if size == 1:
            raise error
        # What is not finite is blamed on a probe by itself.
        if not isinstance(error, CollectionError):
            say(_alone_because(error))
        return 1
    if size == 1:
        raise CollectionError(
            f"one probe's gradients do not fit the memory; choose weights with {parameter('include')} or lower "
            f"{parameter('max_length')}."
        ) from None
    return size // 2


def _disagreement(model: LanguageModel, short: Sample, long: Sample, weights: Mapping[str, Tensor]) -> float:
    """How far the short sample's gradient is off beside the long one, relative to its norm.

    Every token is scored: where all that is scored is certain, a gradient is little but rounding.
    """
    short, long = replace(short, first=1), replace(long, first=1)
    alone, _ = model.gradients([short], weights)
    try:
        beside, _ = model.gradients([short, long], weights)
    except CollectionError:
        return inf
    off = sum(float((beside[name][0] - g[0]).double().square().sum()) for name, g in alone.items())
    norm = sum(float(g.double().square().sum()) for g in alone.values())
    return sqrt(off / norm) if norm else float(off > 0)


def _out_of_memory(error: Exception) -> bool:
    # torch has no class of its own for the processor's memory.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _alone_because(error: Exception) -> str:
    text = printable(" ".join(str(error).split()))
    short = text if len(text) <= 160 else f"{text[:157]}..."
    return f"probes are taken one at a time: this model does not take several in one pass ({short})."
