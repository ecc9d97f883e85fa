"""How many threads the BLAS libraries of NumPy and SciPy may take, which follow no setting of torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from threadpoolctl import threadpool_limits

_limits: list[tuple[int, ExitStack]] = []


@contextmanager
def blas_threads(count: int) -> Iterator[None]:
    """Let every BLAS library take so many threads for a call, those that are loaded meanwhile included."""
    with ExitStack() as undo:
        _limits.append((count, undo))
        try:
            hold_to_limit()
            yield
        finally:
            _limits.pop()


def hold_to_limit() -> None:
    """Apply the present limit once more: a library has been loaded."""
    if _limits:
        count, undo = _limits[-1]
        undo.enter_context(threadpool_limits(count, user_api="blas"))
