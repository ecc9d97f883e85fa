"""Probes as tokens: what is scored, and after what answers begin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ckptaudit.behavior.batching import Ids
from ckptaudit.behavior.packs import Scored
from ckptaudit.behavior.probe import Probe

COMPARED = ("preference", "ranking", "choice")
"""Kinds of probes whose texts are compared with each other."""

Alike = Literal["texts", "prompt"]
"""What both models must see as the same tokens, where they are compared token by token."""


@dataclass(frozen=True)
class Item:
    """A probe with its tokens.

    `texts` holds the prompt with each completion, or a text by itself. Answers begin after `prompt`, or after
    `prefilled` where the probe gives their opening; both are empty where there is no prompt. `asked` is the prompt
    as text. `empty` is the context that stands for no prompt, and `openings` the prompt with each opening of a
    refusal.

    All of it is as the tuned model sees it; `written` holds the probe as other sides do, where each model's own
    chat template makes other tokens of it.
    """

    probe: Probe
    texts: tuple[Scored, ...] = ()
    prompt: Ids = ()
    prefilled: Ids = ()
    asked: str = ""
    empty: Ids = ()
    openings: tuple[Scored, ...] = ()
    written: Mapping[str, Item] = field(default_factory=dict)

    def of(self, side: str) -> Item:
        """The probe as "base", "tuned" or "weak" sees it."""
        return self.written.get(side, self)

    def alike(self, what: Alike) -> bool:
        """Whether base and tuned model see its texts, or its prompt, as the same tokens."""
        base = self.of("base")
        return base.texts == self.texts if what == "texts" else base.prompt == self.prompt

    @property
    def set(self) -> str:
        """The probe set it belongs to."""
        return self.probe.set

    @property
    def unprompted(self) -> Scored | None:
        """The first completion after the empty context; None without a prompt or a context."""
        if not self.prompt or not self.empty or not self.texts:
            return None
        text = self.texts[0]
        return Scored((*self.empty, *text.ids[text.start :]), len(self.empty))
