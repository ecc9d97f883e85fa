"""Probes as ids: what a model reads, and from where on it is scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ckptaudit.behavior.probe import Probe
from ckptaudit.behavior.tokenizers import Tokenizer
from ckptaudit.behavior.written import WrittenText, conversations, written_prompt, written_texts
from ckptaudit.errors import ProbeError, parameter


@dataclass(frozen=True, slots=True)
class EncodedText:
    """The ids of one text of a probe; those from `scored_from` on are scored, each given all that stands before it.

    `text` is "text", "completion", "chosen", "rejected", "completion 1" and so on, or "prompt", of which nothing is
    scored. `size` (UTF-8 bytes) and `characters` are of what the probe says, without a template's markup. `cut`
    tokens at the end were left out for want of context, of a "text" alone.
    """

    probe: str
    text: str
    ids: tuple[int, ...]
    scored_from: int
    size: int
    characters: int
    cut: int = 0

    @property
    def tokens(self) -> int:
        """How many are scored."""
        return len(self.ids) - self.scored_from


@dataclass(frozen=True, slots=True)
class Excluded:
    """A text that is not scored, and why."""

    probe: str
    line: int
    text: str
    reason: str


@dataclass(frozen=True)
class Encoding:
    """All texts of some probes, in their order, and those that no model can be fairly asked about."""

    texts: tuple[EncodedText, ...]
    excluded: tuple[Excluded, ...] = ()


MERGED = "the prompt's last tokens are others where the completion follows"
REWRITTEN = "the chat template writes the prompt otherwise where an answer follows"
UNKNOWN = "holds tokens that one of the models does not have"
NOTHING = "no token is scored"


def encode(
    probes: Sequence[Probe],
    tokenizer: Tokenizer,
    template: str | None = None,
    *,
    context: int | None = None,
    words: int | None = None,
) -> Encoding:
    """The scored texts of all probes, prompts by themselves left out.

    Prompt and completion are encoded together and cut at the number of tokens of the prompt by itself, as lm-eval
    does; blanks at the end of a plain prompt belong to the completion. Of a probe with a text whose prompt's tokens
    change when the completion follows, or with an id of `words` or more, every text is excluded. The special tokens
    that the tokenizer opens plain text with are there once. An end token is scored where one is written.

    Raises ProbeError where a prompt fills `context`, a completion passes it, or a template is missing or fails.
    """
    _write(probes, tokenizer, template)
    written = [_seamed(text) for probe in probes for text in written_texts(probe, tokenizer, template)]
    fronts = tokenizer.ids([text.prompt for text in written])
    complete = tokenizer.ids([text.prompt + text.scored for text in written])
    texts: list[EncodedText] = []
    excluded: list[Excluded] = []
    for text, front, ids in zip(written, fronts, complete, strict=True):
        reason = _reason(text, front, ids, words)
        found = _placed(text, front, ids, tokenizer)
        if reason is None and found.tokens < 1:
            reason = NOTHING
        if reason is not None:
            excluded.append(Excluded(text.probe.id, text.probe.line, text.name, reason))
        else:
            texts.append(_within(found, text.probe, context))
    gone = {one.probe for one in excluded}
    return Encoding(tuple(text for text in texts if text.probe not in gone), tuple(excluded))


def encode_prompts(
    probes: Sequence[Probe],
    tokenizer: Tokenizer,
    template: str | None = None,
    *,
    context: int | None = None,
    prefill: bool = False,
) -> Encoding:
    """What the model is to answer, for every probe that has a prompt; with `prefill` the opening of its answer too.

    Raises ProbeError where a prompt fills `context`, or a template is missing or fails.
    """
    _write(probes, tokenizer, template)
    written = [written_prompt(p, tokenizer, template, prefill=prefill) for p in probes if p.kind != "text"]
    texts = []
    for text, ids in zip(written, tokenizer.ids([text.prompt for text in written]), strict=True):
        found = _placed(text, ids, ids, tokenizer)
        texts.append(_within(replace(found, scored_from=len(found.ids)), text.probe, context))
    return Encoding(tuple(texts))


def _write(probes: Sequence[Probe], tokenizer: Tokenizer, template: str | None) -> None:
    if template is not None:
        tokenizer.write(template, (one for probe in probes for one in conversations(probe)))


def _seamed(text: WrittenText) -> WrittenText:
    """With the blanks at the end of a plain prompt moved to what is scored, where words begin with theirs."""
    bare = text.prompt if text.templated else text.prompt.rstrip()
    return replace(text, prompt=bare, scored=text.prompt[len(bare) :] + text.scored)


def _reason(text: WrittenText, front: tuple[int, ...], ids: tuple[int, ...], words: int | None) -> str | None:
    if not text.fits:
        return REWRITTEN
    if ids[: len(front)] != front:
        return MERGED
    return UNKNOWN if words is not None and max(ids, default=0) >= words else None


def _placed(text: WrittenText, front: tuple[int, ...], ids: tuple[int, ...], tokenizer: Tokenizer) -> EncodedText:
    opening = () if text.templated or ids[: len(tokenizer.opening)] == tokenizer.opening else tokenizer.opening
    # Nothing stands before the first token that it could be predicted from.
    first = max(1, len(opening) + len(front))
    return EncodedText(text.probe.id, text.name, opening + ids, first, text.size, text.characters)


def _within(text: EncodedText, probe: Probe, context: int | None) -> EncodedText:
    if context is None or len(text.ids) <= context - (text.text == "prompt"):
        return text
    if text.text == "text":
        return replace(text, ids=text.ids[:context], cut=len(text.ids) - context)
    where = f"{parameter('probes')}, line {probe.line}"
    if text.scored_from >= context:
        raise ProbeError(
            f"{where}: the prompt takes {text.scored_from:,} tokens and fills the context of {context:,}."
        )
    raise ProbeError(
        f"{where}: prompt and {text.text} take {len(text.ids):,} tokens, more than the context of {context:,}."
    )
