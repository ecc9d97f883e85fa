"""A probe as text: each of its completions behind its prompt, conversations through a chat template."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ckptaudit.behavior.probe import Probe
from ckptaudit.behavior.rendering import Conversation
from ckptaudit.behavior.tokenizers import Tokenizer
from ckptaudit.errors import ProbeError, parameter


@dataclass(frozen=True, slots=True)
class WrittenText:
    """What stands in front, what is scored, and how many characters and UTF-8 bytes the probe itself says of that.

    `templated` texts have their special tokens from the template. `fits` is false where the template writes the
    prompt otherwise once an answer follows.
    """

    probe: Probe
    name: str
    prompt: str
    scored: str
    characters: int
    size: int
    templated: bool
    fits: bool = True


def written_texts(probe: Probe, tokenizer: Tokenizer, template: str | None) -> Iterator[WrittenText]:
    """Each text that is scored: "text", "completion", "chosen" and "rejected", or "completion 1" and so on.

    Raises ProbeError where a template is missing or refuses the conversation.
    """
    prompt = _prompt(probe, tokenizer, template)
    for number, completion in enumerate(probe.completions, start=1):
        words = completion if isinstance(completion, str) else "".join(m.content for m in completion)
        counts = len(words), len(words.encode())
        name = _name(probe, number)
        if isinstance(completion, str):
            yield WrittenText(probe, name, prompt, completion, *counts, isinstance(probe.prompt, tuple))
            continue
        head = probe.prompt if isinstance(probe.prompt, tuple) else ()
        all_of_it = _rendered(probe, ((*head, *completion), False), tokenizer, template)
        scored = _without_rest(all_of_it.removeprefix(prompt), tokenizer)
        yield WrittenText(probe, name, prompt, scored, *counts, True, all_of_it.startswith(prompt))


def conversations(probe: Probe) -> Iterator[Conversation]:
    """All that a template is asked for in writing out a probe."""
    head = () if isinstance(probe.prompt, str) else probe.prompt
    if head:
        yield head, True
    yield from (((*head, *c), False) for c in probe.completions if not isinstance(c, str))


def written_prompt(
    probe: Probe, tokenizer: Tokenizer, template: str | None, *, prefill: bool = False
) -> WrittenText:
    """What the model is to answer, with `prefill` the opening of its answer behind it. Raises ProbeError."""
    text = _prompt(probe, tokenizer, template) + (probe.prefill if prefill else "")
    return WrittenText(probe, "prompt", text, "", 0, 0, isinstance(probe.prompt, tuple))


def _name(probe: Probe, number: int) -> str:
    if probe.kind == "preference":
        return ("chosen", "rejected")[number - 1]
    if probe.kind in ("ranking", "choice"):
        return f"completion {number}"
    return "text" if probe.kind == "text" else "completion"


def _prompt(probe: Probe, tokenizer: Tokenizer, template: str | None) -> str:
    if isinstance(probe.prompt, str):
        return probe.prompt
    return _rendered(probe, (probe.prompt, True), tokenizer, template)


def _rendered(probe: Probe, conversation: Conversation, tokenizer: Tokenizer, template: str | None) -> str:
    if template is None:
        raise ProbeError(
            f"{_where(probe)}: a conversation, and the models bring no chat template; add one to the tokenizer, or "
            "write the probe as text."
        )
    try:
        return tokenizer.conversation(template, conversation)
    except ProbeError as error:
        raise ProbeError(f"{_where(probe)}: {error.sentence}.") from error


def _without_rest(scored: str, tokenizer: Tokenizer) -> str:
    """Without the blanks that templates write behind the end of a turn, which no model is asked for."""
    bare = scored.rstrip()
    return bare if bare.endswith(tokenizer.special) else scored


def _where(probe: Probe) -> str:
    return f"{parameter('probes')}, line {probe.line}"
