"""How many threads the BLAS libraries of NumPy and SciPy may take, which follow no setting of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from threadpoolctl import threadpool_limits

_limits: list[Callable[[], object]] = []


@contextmanager
def blas_threads(count: int) -> Iterator[None]:
    """Let every BLAS library take this number of threads for a call, those that are loaded meanwhile included."""
    # OpenBLAS obeys the one thread that set a limit first, until it lifts it: so one thread does all of it.
    with ThreadPoolExecutor(1) as setter, ExitStack() as undo:
        undo.callback(lambda: setter.submit(limits.close).result())
        limits = ExitStack()

        def limit() -> object:
            return limits.enter_context(threadpool_limits(count, user_api="blas"))

        _limits.append(lambda: setter.submit(limit).result())
        undo.callback(_limits.pop)
        hold_to_limit()
        yield


def hold_to_limit() -> None:
    """Apply the present limit once more: a library has been loaded."""
    if _limits:
        _limits[-1]()
