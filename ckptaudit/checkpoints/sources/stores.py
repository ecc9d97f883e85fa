"""What every kind of store offers: open an object, read a range of it, and, where it can, list what it holds."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ckptaudit.checkpoints.json_files import clipped
from ckptaudit.errors import CheckpointError

HEAD = 2**16
"""Bytes read when an object is opened: of most files of weights the header, of small files everything."""

PART = 8 * 2**20
"""The largest range asked for at once; longer ones are read in parts, several at a time."""

CONNECTIONS = 8
MAX_LISTED = 20_000
ATTEMPTS = 6
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 20.0
CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0

Result = TypeVar("Result")

_PREAMBLE = re.compile(
    r"Generic \w+ error: |Error performing list request: "
    r"|Error performing \w+ \S+ in \S+(, after \d+ retries)?[^-]* - |Server returned non-2xx status code: "
)
"""What obstore's errors begin with."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An object at the time of its opening: size, what identifies its contents, and its first bytes.

    `tag` is the ETag, or where a server gives none the time of the last change; sent as a condition with every
    later read. `version` is there where the store keeps versions.
    """

    size: int
    tag: str
    head: bytes
    version: str | None = None


class Store(Protocol):
    """A bucket, a web server or a model of the hub.

    Raises FileNotFoundError, PermissionError, TransientError for what may pass, and CheckpointError where the
    object changed or the server cannot do what is needed.
    """

    def open(self, key: str) -> Opened:
        """The object, with its first bytes."""
        ...

    def read(self, key: str, start: int, view: memoryview, opened: Opened) -> None:
        """Fill `view` from `start`, under the condition that the object is still the one opened."""
        ...

    def listing(self, prefix: str) -> Mapping[str, int] | None:
        """Keys below a prefix with their sizes; None where the store lists nothing."""
        ...


class TransientError(OSError):
    """A store that is busy, or a connection that was cut; tried again after a pause."""

    def __init__(self, text: str, pause: float = 0.0) -> None:
        super().__init__(text)
        self.pause = pause


def with_retries(work: Callable[[], Result]) -> Result:
    """The work's result; after at most 6 attempts with growing pauses the last error. Raises OSError."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return work()
        except TransientError as error:
            if attempt == ATTEMPTS:
                raise OSError(f"{error}; given up after {ATTEMPTS} attempts") from error
            growing = FIRST_PAUSE * 2 ** (attempt - 1) * (0.5 + random.random() / 2)
            time.sleep(min(LONGEST_PAUSE, max(growing, error.pause)))
    raise AssertionError


def changed(where: str, before: str, after: str) -> CheckpointError:
    """The one error for an object that is not what it was."""
    return CheckpointError(
        f"{where}: the object changed while it was audited (it was {clipped(before)} at opening, now "
        f"{clipped(after)}); wait until it is complete, and audit again."
    )


def said(error: object) -> str:
    """What a library says went wrong, without addresses, in whose queries some stores carry signatures."""
    line = next(iter(str(error).splitlines()), type(error).__name__)
    line = re.sub(r"\S+://\S+", "...", _PREAMBLE.sub("", line)).partition(": <")[0]
    return clipped(line)
