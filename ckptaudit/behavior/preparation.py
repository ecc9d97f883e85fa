"""Probes and two checkpoints to items: tokenizers that agree, texts as ids, before any weight is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from ckptaudit.behavior.causal_models import context_of, model_config, refuse_unbuildable, words_of
from ckptaudit.behavior.encoding import EncodedText, Encoding, encode, encode_prompts
from ckptaudit.behavior.evidence import Evidence
from ckptaudit.behavior.facts import ProbeFacts
from ckptaudit.behavior.folders import folders
from ckptaudit.behavior.given_verdicts import GivenVerdicts
from ckptaudit.behavior.items import Item
from ckptaudit.behavior.probe import Message, Probe
from ckptaudit.behavior.scoring import Scored
from ckptaudit.behavior.tokenizers import (
    Tokenizer,
    agreement,
    has_tokenizer,
    open_tokenizer,
    refuse_other_ids,
    templates,
)
from ckptaudit.checkpoints import Checkpoint
from ckptaudit.errors import MeasurementError, ProbeError, parameter


@dataclass(frozen=True)
class ProbeSet:
    """The probes of one file, how they are to be run, and verdicts on them from elsewhere.

    `damage` is done to what they show, to prove a check.
    """

    path: str
    probes: tuple[Probe, ...]
    facts: ProbeFacts = field(default_factory=ProbeFacts)
    dtype: str = "float32"
    weak: Checkpoint | None = None
    verdicts: GivenVerdicts = field(default_factory=GivenVerdicts)
    damage: Callable[[Evidence], Evidence] | None = None
    rows: Mapping[str, Path] = field(default_factory=dict)
    """Where the rows of each run are written, by the run's path."""
    done: dict[tuple[str, str], Prepared] = field(default_factory=dict, compare=False, repr=False)
    """What has been prepared already, by the paths of base and tuned."""

    @cached_property
    def ids(self) -> dict[str, None]:
        """The probes' ids, in the order of the file."""
        return dict.fromkeys(probe.id for probe in self.probes)

    @cached_property
    def sets(self) -> tuple[str, ...]:
        """The names of the probe sets, in the order of the file."""
        return tuple(dict.fromkeys(probe.set for probe in self.probes))


@dataclass(frozen=True)
class Prepared:
    """What is run for one pair: items, the tokenizer that made them, and what a reader should know."""

    items: tuple[Item, ...]
    tokenizer: Tokenizer
    notes: tuple[str, ...] = ()
    template: str | None = None

    def decode(self, ids: Sequence[int]) -> str:
        """Tokens as text, special ones left out."""
        text: str = self.tokenizer.native.decode(list(ids), skip_special_tokens=True)
        return text


def prepare(probes: ProbeSet, base: Checkpoint, tuned: Checkpoint) -> Prepared:
    """Encode the probes for a pair.

    Raises ProbeError or MeasurementError, in one sentence, where a model cannot be built, tokenizers disagree, or a
    probe cannot be encoded.
    """
    place = base.path, tuned.path
    if place not in probes.done:
        probes.done[place] = _prepared(probes, base, tuned)
    return probes.done[place]


def _prepared(probes: ProbeSet, base: Checkpoint, tuned: Checkpoint) -> Prepared:
    sides = (base, tuned)
    for side in sides:
        refuse_unbuildable(side, base)
    configs = [model_config(side, base) for side in sides]
    before = open_tokenizer(_folder(base))
    after = _tokenizer(tuned) or before
    agreement(before, after)
    _refuse_other_weak(probes, base, before)
    template, _ = templates(before, after, probes.facts.template)
    context = min(map(context_of, configs))
    words = min(map(words_of, configs))
    texts = encode(probes.probes, after, template, context=context, words=words)
    asked = encode_prompts(probes.probes, after, template, context=context)
    opened = encode_prompts(probes.probes, after, template, context=context, prefill=True)
    refuse_other_ids(before, after, list(_said(probes.probes)))
    items = _items(probes, after, texts, asked, opened)
    if not items:
        raise ProbeError(f"{parameter('probes')}: no probe is left to be judged ({texts.excluded[0].reason}).")
    return Prepared(items, after, tuple(_notes(texts)), template)


def _refuse_other_weak(probes: ProbeSet, base: Checkpoint, tokenizer: Tokenizer) -> None:
    """A weak model scores the same ids, and so must have the same tokens."""
    if probes.weak is not None:
        refuse_unbuildable(probes.weak, probes.weak if probes.weak.config else base)
        agreement(tokenizer, _tokenizer(probes.weak) or tokenizer)


def _items(
    probes: ProbeSet, tokenizer: Tokenizer, texts: Encoding, asked: Encoding, opened: Encoding
) -> tuple[Item, ...]:
    gone = {one.probe for one in texts.excluded}
    scored: dict[str, list[Scored]] = {}
    for text in texts.texts:
        scored.setdefault(text.probe, []).append(Scored(text.ids, text.scored_from))
    prompts, prefilled = ({text.probe: text for text in one.texts} for one in (asked, opened))
    openings = tokenizer.ids(probes.facts.openings)
    return tuple(
        _item(
            probe,
            tuple(scored.get(probe.id, ())),
            prompts.get(probe.id),
            prefilled.get(probe.id),
            tokenizer,
            openings,
        )
        for probe in probes.probes
        if probe.id not in gone
    )


def _item(
    probe: Probe,
    texts: tuple[Scored, ...],
    asked: EncodedText | None,
    opened: EncodedText | None,
    tokenizer: Tokenizer,
    openings: Sequence[tuple[int, ...]],
) -> Item:
    item = Item(probe, texts)
    if asked is None or opened is None or not asked.ids:
        return item
    return replace(
        item,
        prompt=asked.ids,
        prefilled=opened.ids,
        asked=_plain(probe.prompt),
        empty=tokenizer.opening or asked.ids[:1],
        openings=tuple(Scored((*asked.ids, *ids), len(asked.ids)) for ids in openings if ids),
    )


def _plain(text: str | tuple[Message, ...]) -> str:
    return text if isinstance(text, str) else "\n".join(message.content for message in text)


def _said(probes: Sequence[Probe]) -> Iterator[str]:
    for probe in probes:
        yield from (_plain(part) for part in (probe.prompt, *probe.completions))


def _notes(texts: Encoding) -> Iterator[str]:
    by_reason: dict[str, list[int]] = {}
    for one in texts.excluded:
        by_reason.setdefault(one.reason, []).append(one.line)
    for reason, lines in by_reason.items():
        yield f"{len(set(lines))} probes are left out, the first of line {lines[0]}: {reason}"
    cut = sum(1 for text in texts.texts if text.cut)
    if cut:
        yield f"{cut} probes are longer than the context, and judged up to its end"


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer | None:
    """The tokenizer of a checkpoint, or of what it was merged into; None where neither brings one."""
    folder = _folder(checkpoint)
    return open_tokenizer(folder) if has_tokenizer(folder) else None


def _folder(checkpoint: Checkpoint) -> Path:
    """The first folder with a tokenizer, the checkpoint's own where none has one."""
    local = [folder for folder in folders(checkpoint) if isinstance(folder, Path)]
    if not local:
        raise MeasurementError(f"{checkpoint.path}: no local folder, so there is no tokenizer to be read")
    return next(filter(has_tokenizer, local), local[0])
