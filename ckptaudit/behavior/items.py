"""Probes as tokens: what is scored, and after what answers begin."""

from __future__ import annotations

from dataclasses import dataclass

from ckptaudit.behavior.batching import Ids
from ckptaudit.behavior.packs import Scored
from ckptaudit.behavior.probe import Probe

COMPARED = ("preference", "ranking", "choice")
"""Kinds of probes whose texts are compared with each other."""


@dataclass(frozen=True)
class Item:
    """A probe with its tokens.

    `texts` holds the prompt with each completion, or a text by itself. Answers begin after `prompt`, or after
    `prefilled` where the probe gives their opening; both are empty where there is no prompt. `asked` is the prompt
    as text. `empty` is the context that stands for no prompt, and `openings` the prompt with each opening of a
    refusal.
    """

    probe: Probe
    texts: tuple[Scored, ...] = ()
    prompt: Ids = ()
    prefilled: Ids = ()
    asked: str = ""
    empty: Ids = ()
    openings: tuple[Scored, ...] = ()

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
