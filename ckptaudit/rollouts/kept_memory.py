"""Memory of one batch that the next one gets, instead of new pages from the system for every array."""

from __future__ import annotations

import numpy as np

LARGEST = 31 * 2**20
"""Just below DEFAULT_MMAP_THRESHOLD_MAX of glibc, 32 MiB."""


def keep_freed_memory() -> None:
    """Have the C library keep what arrays of up to LARGEST bytes free.

    glibc maps a large block anew for each array and gives it back at once, and a fresh page costs more than the
    arithmetic on it. Freeing one mapped block raises that threshold to its size (mallopt(3), M_MMAP_THRESHOLD), and
    what is kept to twice of it. Nothing is written to the block, so that it costs nothing; other C libraries do as
    they do.
    """
    np.empty(LARGEST, dtype=np.uint8)
