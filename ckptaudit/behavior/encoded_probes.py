"""All probes as one tokenizer and one chat template write them, and what a model is run on from that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from ckptaudit.behavior.encoding import EncodedText, Encoding, Excluded, encode, encode_prompts
from ckptaudit.behavior.items import Item
from ckptaudit.behavior.probe import Message, Probe
from ckptaudit.behavior.scoring import Scored
from ckptaudit.behavior.tokenizers import TemplateChoice, Tokenizer, templates
from ckptaudit.errors import ProbeError, parameter


@dataclass(frozen=True)
class Writer:
    """A tokenizer, and the chat template that conversations go through."""

    tokenizer: Tokenizer
    template: str | None


@dataclass(frozen=True)
class Writers:
    """The writer of the tuned model's tokens, and by side those of other models that have one of their own."""

    tuned: Writer
    own: Mapping[str, Writer] = field(default_factory=dict)

    def of(self, side: str) -> Writer:
        """The writer of "base", "tuned" or "weak"."""
        return self.own.get(side, self.tuned)


def writers(base: Tokenizer, tuned: Tokenizer, weak: Tokenizer | None, choice: TemplateChoice) -> Writers:
    """One for all models, or by "own" each model's; a model without a chat template is given another's."""
    first, second = templates(base, tuned, choice)
    if choice != "own":
        return Writers(Writer(tuned, second))
    own = {"base": Writer(base, first)}
    if weak is not None:
        own["weak"] = Writer(weak, weak.template or first)
    return Writers(Writer(tuned, second), own)


@dataclass(frozen=True)
class EncodedProbes:
    """The probes' scored texts, their prompts, and their prompts with the opening of an answer."""

    probes: Sequence[Probe]
    writer: Writer
    texts: Encoding
    asked: Encoding
    opened: Encoding
    refusals: tuple[tuple[int, ...], ...]

    @property
    def excluded(self) -> tuple[Excluded, ...]:
        """Texts that no model can be fairly asked about."""
        return self.texts.excluded

    @property
    def cut(self) -> frozenset[str]:
        """The probes that are longer than the context."""
        return frozenset(text.probe for text in self.texts.texts if text.cut)

    @cached_property
    def items(self) -> dict[str, Item]:
        """By probe what a model is run on, without the probes that are excluded."""
        gone = {one.probe for one in self.excluded}
        scored: dict[str, list[Scored]] = {}
        for text in self.texts.texts:
            scored.setdefault(text.probe, []).append(Scored(text.ids, text.scored_from))
        asked, opened = ({text.probe: text for text in one.texts} for one in (self.asked, self.opened))
        return {
            p.id: self._item(Item(p, tuple(scored.get(p.id, ()))), asked.get(p.id), opened.get(p.id))
            for p in self.probes
            if p.id not in gone
        }

    def _item(self, item: Item, asked: EncodedText | None, opened: EncodedText | None) -> Item:
        if asked is None or opened is None or not asked.ids:
            return item
        return replace(
            item,
            prompt=asked.ids,
            prefilled=opened.ids,
            asked=plain(item.probe.prompt),
            empty=self.writer.tokenizer.opening or asked.ids[:1],
            openings=tuple(Scored((*asked.ids, *ids), len(asked.ids)) for ids in self.refusals if ids),
        )


def encoded(
    probes: Sequence[Probe], writer: Writer, openings: Sequence[str], *, context: int, words: int, side: str = ""
) -> EncodedProbes:
    """Encode all probes. Raises ProbeError, which names the side where one is given."""
    tokenizer, template = writer.tokenizer, writer.template
    try:
        return EncodedProbes(
            probes,
            writer,
            encode(probes, tokenizer, template, context=context, words=words),
            encode_prompts(probes, tokenizer, template, context=context),
            encode_prompts(probes, tokenizer, template, context=context, prefill=True),
            tuple(tokenizer.ids(openings)),
        )
    except ProbeError as error:
        if not side:
            raise
        said = error.sentence.removesuffix(".")
        raise ProbeError(f"{said} (by the chat template of {parameter(side)}).") from error


def joined(tuned: EncodedProbes, others: Mapping[str, EncodedProbes]) -> tuple[Item, ...]:
    """The tuned model's items, with those of sides that see other tokens; what any side excludes is left out."""
    return tuple(
        replace(item, written={s: one.items[name] for s, one in others.items() if one.items[name] != item})
        for name, item in tuned.items.items()
        if all(name in one.items for one in others.values())
    )


def notes(sides: Sequence[EncodedProbes], items: Sequence[Item]) -> Iterator[str]:
    """What a reader should know of how the probes became tokens."""
    by_reason: dict[str, list[int]] = {}
    for one in (one for side in sides for one in side.excluded):
        by_reason.setdefault(one.reason, []).append(one.line)
    for reason, lines in by_reason.items():
        yield f"{len(set(lines))} probes are left out, the first of line {min(lines)}: {reason}"
    cut = frozenset().union(*(side.cut for side in sides))
    if cut:
        yield f"{len(cut)} probes are longer than the context, and judged up to its end"
    apart = sum(not (item.alike("texts") and item.alike("prompt")) for item in items)
    if apart:
        yield (
            f"{apart} of {len(items)} probes become other tokens by each model's own chat template: divergences "
            "and ranks, which need the same tokens, leave them out"
        )


def plain(text: str | tuple[Message, ...]) -> str:
    """What a prompt or a completion says, without a template's markup."""
    return text if isinstance(text, str) else "\n".join(message.content for message in text)
