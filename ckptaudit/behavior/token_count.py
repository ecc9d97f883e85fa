"""How many tokens are done of how many that are expected, while answers of unknown length are still to come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

FIRST_GUESS = 32
"""Tokens of an answer, before any is known."""

Watch = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Workload:
    """Tokens of given texts and prompts, how many answers are to be given, and how many times answers are read."""

    tokens: int = 0
    answers: int = 0
    read: int = 0
    most: int = FIRST_GUESS
    """The longest that an answer may be."""


class TokenCount:
    """Counts finished tokens and tells `watch` of them and of the total.

    An answer that is not known yet counts as many tokens as those that are have on average.
    """

    def __init__(self, watch: Watch | None = None) -> None:
        self._watch = watch
        self._work = Workload()
        self._done = self._given = self._spoken = 0

    def expect(self, work: Workload) -> None:
        """What is to come."""
        self._work = work
        self._done = self._given = self._spoken = 0
        self._tell()

    def scored(self, tokens: int) -> None:
        """Tokens of a text that a model has read."""
        self._done += tokens
        self._tell()

    def answered(self, prompt: int, answer: int) -> None:
        """Tokens of a prompt, and of the answer that was given to it."""
        self._done += prompt + answer
        self._given += 1
        self._spoken += answer
        self._tell()

    def finish(self) -> None:
        """Everything is done, whatever was expected."""
        if self._watch is not None and self._done:
            self._watch(self._done, self._done)

    @property
    def total(self) -> int:
        """Tokens that are expected in all."""
        mean = self._spoken / self._given if self._given else min(FIRST_GUESS, self._work.most)
        still = max(0, self._work.answers - self._given)
        return max(self._done, self._work.tokens + self._spoken + round(mean * (still + self._work.read)))

    def _tell(self) -> None:
        if self._watch is not None:
            self._watch(self._done, self.total)
