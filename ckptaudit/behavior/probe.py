"""A probe: what a model is asked, and what its answers are held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Kind = Literal["text", "prompt", "completion", "preference", "labelled", "ranking", "choice"]
Role = Literal["system", "developer", "user", "assistant", "tool"]
Safety = Literal["safe", "unsafe"]

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Message:
    """A turn of a conversation."""

    role: Role
    content: str


Text = str | tuple[Message, ...]
"""Plain text, or a conversation that a chat template writes out."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One line of a file of probes.

    `completions` holds what is scored given the prompt: the text itself (kind "text", whose prompt is empty), the
    completion ("completion", "labelled"), chosen and rejected ("preference"), or all that are compared ("ranking",
    "choice"). A prompt by itself ("prompt") has none. After a conversation, a plain completion goes on where the
    template has opened the assistant's turn.
    """

    line: int
    prompt: Text = ""
    completions: tuple[Text, ...] = ()
    kind: Kind = "text"
    id: str = ""
    set: str = ""
    label: bool | None = None
    """Whether the completion is a wanted one."""
    ranking: tuple[int, ...] = ()
    """The place of each completion, 1 the best; equal numbers are ties."""
    answer: int | None = None
    """Index of the right one among the completions, from 0."""
    safety: Safety | None = None
    raters: float | None = None
    """Share of raters who preferred the chosen completion, 0 to 1."""
    principles: Mapping[str, Literal[1, -1] | None] = field(default_factory=dict, hash=False)
    """By principle 1 where it favours the chosen completion, -1 the rejected one, None neither."""
    prefill: str = ""
    """What opens the assistant's answer."""
    reference: str | None = None
    """The answer that an exact match is made with."""
    weight: float = 1.0
    digest: str = ""
    """Of all that the line says but its id."""

    @property
    def conversational(self) -> bool:
        """Whether a chat template is needed."""
        return not all(isinstance(part, str) for part in (self.prompt, *self.completions))
