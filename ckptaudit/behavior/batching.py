"""Texts in batches of little padding, smaller ones where the memory does not hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from ckptaudit.errors import MeasurementError

TOKENS, CPU_TOKENS = 8192, 1024
"""Tokens of one batch, padding included; on a processor those whose activations stay in its caches are fastest."""

Ids = tuple[int, ...]
Found = TypeVar("Found")


def batch_tokens(device: torch.device) -> int:
    """How many tokens a batch has on a device, unless it is said otherwise."""
    return CPU_TOKENS if device.type == "cpu" else TOKENS


def by_length(texts: Sequence[Ids], tokens: int = TOKENS, *, alike: bool = False) -> list[list[int]]:
    """Indices in batches, the longest texts first, each batch within `tokens` or one text alone.

    With `alike` only texts of one length stand together, so that nothing is padded.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(texts)), key=lambda i: -len(texts[i])):
        batch = batches[-1] if batches else []
        longest = len(texts[batch[0]]) if batch else 0
        fits = batch and (len(batch) + 1) * longest <= tokens and (not alike or len(texts[index]) == longest)
        if fits:
            batch.append(index)
        else:
            batches.append([index])
    return batches


def right_padded(texts: Sequence[Ids], device: torch.device, width: int = 0) -> tuple[Int[Tensor, "b t"], ...]:
    """Ids and attention mask, `[texts, longest]` or `width` wide, padded on the right with id 0."""
    width = max(width, *(len(text) for text in texts))
    ids = torch.zeros((len(texts), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
        mask[row, : len(text)] = 1
    return ids.to(device), mask.to(device)


def left_padded(texts: Sequence[Ids], device: torch.device, width: int = 0) -> tuple[Int[Tensor, "b t"], ...]:
    """The same with padding on the left, as answers are generated."""
    width = max(width, *(len(text) for text in texts))
    ids = torch.zeros((len(texts), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, width - len(text) :] = torch.tensor(text)
        mask[row, width - len(text) :] = 1
    return ids.to(device), mask.to(device)


def in_batches(
    batches: Sequence[Sequence[int]], run: Callable[[Sequence[int]], Sequence[Found]]
) -> Iterator[tuple[int, Found]]:
    """What `run` gives of each index, batch after batch; one that does not fit the memory is halved.

    Raises MeasurementError where a single text does not fit.
    """
    waiting = [list(batch) for batch in reversed(batches)]
    while waiting:
        batch = waiting.pop()
        try:
            found = run(batch)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if len(batch) == 1:
                raise MeasurementError(
                    "one probe does not fit the memory of the device; shorten the longest probes, or run on the CPU"
                ) from None
            half = len(batch) // 2
            waiting += [batch[half:], batch[:half]]
            continue
        yield from zip(batch, found, strict=True)


NO_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
"""How the allocator of the CPU, the driver, and cuBLAS and cuSOLVER say it; none of them by an error of its own."""


def out_of_memory(error: RuntimeError) -> bool:
    """Whether torch ran out of the device's memory, or of the machine's."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in NO_MEMORY)
