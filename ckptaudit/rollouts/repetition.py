"""Whether an answer ends in a loop: the same block of tokens or letters again and again."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

TAIL = 256
"""How many last tokens, or letters, are looked at."""
LONGEST_BLOCK = 48
REPEATS = 4
SHORTEST_LOOP = 20
"""A block must fill this many entries with its repeats, and be there at least REPEATS times."""
MIN_PACKED = 1_000
PACKED_RATIO = 10.0
"""A text of at least MIN_PACKED bytes that zlib packs by more than this says little."""


def loops(tails: Array, sizes: Array) -> Array:
    """Whether each row ends in at least REPEATS copies of a block that fill SHORTEST_LOOP entries or more.

    `tails` has shape (rows, TAIL) and holds the last entries right-aligned, `sizes` how many of them are real.
    """
    found = np.zeros(len(tails), dtype=bool)
    for block in range(1, LONGEST_BLOCK + 1):
        span = max(REPEATS * block, -(-SHORTEST_LOOP // block) * block)
        if span > TAIL:
            break
        open_rows = np.flatnonzero(~found & (sizes >= span))
        if not len(open_rows):
            continue
        last = tails[open_rows, TAIL - span :]
        found[open_rows] = (last[:, block:] == last[:, :-block]).all(axis=1)
    return found


def token_tails(flat: Array, sizes: Array) -> Array:
    """The last TAIL entries of each list, right-aligned and padded with -1, shape (lists, TAIL)."""
    ends = np.cumsum(sizes)
    places = ends[:, None] + np.arange(-TAIL, 0)
    inside = places >= (ends - sizes)[:, None]
    if not len(flat):
        return np.full((len(sizes), TAIL), -1)
    return np.where(inside, flat[np.clip(places, 0, len(flat) - 1)], -1)


def text_loops(texts: list[str | None]) -> Array:
    """As `loops`, over the letters of each text; a long text that packs more than tenfold counts too."""
    ends = [(text or "")[-TAIL:] for text in texts]
    sizes = np.array([len(end) for end in ends], dtype=np.int64)
    letters = np.array([ord(letter) for end in ends for letter in end], dtype=np.int64)
    found = loops(token_tails(letters, sizes), sizes)
    return np.logical_or(found, packed_well(texts, found))


def packed_well(texts: list[str | None], known: Array) -> Array:
    """Whether a long text packs more than tenfold; false where a loop is `known` already."""
    return np.array(
        [not hit and _packs_well(text or "") for hit, text in zip(known, texts, strict=True)], dtype=bool
    )


def _packs_well(text: str) -> bool:
    data = text[-16_384:].encode("utf-8", "replace")
    return len(data) >= MIN_PACKED and len(data) > PACKED_RATIO * len(zlib.compress(data, 1))
