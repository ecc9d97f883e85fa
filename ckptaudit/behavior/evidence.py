"""What both models did on the probes, text by text: what every quantity of behavior is computed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ckptaudit.behavior.comparison import ComparedText
from ckptaudit.behavior.generation import Stop
from ckptaudit.behavior.given_verdicts import GivenVerdicts
from ckptaudit.behavior.intervals import Interval
from ckptaudit.behavior.items import Item
from ckptaudit.behavior.scoring import ScoredText
from ckptaudit.behavior.states import PooledStates

Pass = Literal[
    "texts",
    "pairs",
    "greedy",
    "answers",
    "samples",
    "settings",
    "prefill",
    "states",
    "unprompted",
    "openings",
    "weak",
    "intervals",
]
"""What is run: both models on given texts; scores of what is compared; greedy answers; both models on the tuned
model's; sampled answers; answers under several settings; answers after a given opening; hidden states; completions
without their prompt; openings of refusals; scores by a weak model; each save of a run beside the one before."""

Side = Literal["base", "tuned", "weak"]


@dataclass(frozen=True)
class Spoken:
    """An answer as text and tokens, its length with the end token, and why it stopped."""

    text: str
    ids: tuple[int, ...]
    stop: Stop
    length: int
    entropy: float | None = None
    """Mean entropy of the model at its own tokens, in nats; only of sampled answers."""


Key = tuple[str, int]
"""A probe's id, and which of its texts or samples."""


@dataclass(frozen=True, repr=False)
class Evidence:
    """The rows of a pair, by probe. Empty where a pass was not asked for.

    `texts` and `answers` compare both models on given texts and on the tuned model's greedy answers; `scores` are
    of what is compared within a probe; `spoken` holds answers by side and setting. `floor` is the KL that rounding
    alone comes to.
    """

    items: tuple[Item, ...]
    texts: Mapping[str, ComparedText] = field(default_factory=dict)
    answers: Mapping[str, ComparedText] = field(default_factory=dict)
    apart: Mapping[Side, Mapping[str, ScoredText]] = field(default_factory=dict)
    """Given texts that both models see as other tokens, by side and probe."""
    scores: Mapping[Side, Mapping[Key, ScoredText]] = field(default_factory=dict)
    unprompted: Mapping[Side, Mapping[str, ScoredText]] = field(default_factory=dict)
    openings: Mapping[Side, Mapping[Key, ScoredText]] = field(default_factory=dict)
    spoken: Mapping[tuple[Side, str], Mapping[Key, Spoken]] = field(default_factory=dict)
    states: Mapping[Side, PooledStates] = field(default_factory=dict)
    embedded: Mapping[Side, PooledStates] = field(default_factory=dict)
    """States of the base on the sampled answers of either side."""
    stated: tuple[str, ...] = ()
    """The probes that `states` has rows of, in order."""
    answered: frozenset[str] = frozenset()
    """The probes that were answered."""
    floor: float = 0.0
    refusals: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    verdicts: GivenVerdicts = field(default_factory=GivenVerdicts)
    """Verdicts from elsewhere on these probes."""
    intervals: tuple[Interval, ...] = ()
    """From the base to the first save of the run, from each to the next, and last to the one that is judged."""

    def given(self, name: str, side: Side) -> ScoredText:
        """What the base or the tuned model says of a probe's given text, on the tokens that it sees."""
        row = self.texts.get(name)
        if row is None:
            return self.apart[side][name]
        return row.base if side == "base" else row.tuned

    def with_tuned_scores(self, rows: Mapping[Key, ScoredText]) -> Evidence:
        """The evidence with other scores by the tuned model, for damages."""
        return replace(self, scores={**self.scores, "tuned": rows})
