"""What a page shows of a pair on its probes, as records: answers side by side, tokens, curves over positions."""

from __future__ import annotations

import msgspec


class ShownToken(msgspec.Struct, frozen=True):
    """A token as it is written, log t/b of it in nats, and KL(t, b) where it stands."""

    text: str
    log_ratio: float
    kl: float


class ShownProbe(msgspec.Struct, frozen=True, kw_only=True):
    """A probe with both models' greedy answers, and the text on which they differ, token by token.

    `kl` is the mean KL(t, b) over those tokens; `of_answer` says that they are the tuned model's answer and not the
    probe's own text.
    """

    probe: str
    set: str
    prompt: str
    base: str
    tuned: str
    kl: float
    of_answer: bool
    tokens: tuple[ShownToken, ...]


class PositionCurve(msgspec.Struct, frozen=True):
    """Mean KL(t, b) at each position of a set's texts, from the first scored token on, and how many reach it."""

    set: str
    of_answers: bool
    kl: tuple[float, ...]
    texts: tuple[int, ...]


class BehaviorExcerpt(msgspec.Struct, frozen=True, kw_only=True):
    """What a page shows of one pair on its probes."""

    probes: int
    floor: float
    notes: tuple[str, ...]
    curves: tuple[PositionCurve, ...]
    shown: tuple[ShownProbe, ...]
