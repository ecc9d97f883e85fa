"""Probes and two checkpoints to items: tokenizers that agree, texts as ids, before any weight is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ckptaudit.behavior.causal_models import context_of, model_config, refuse_unbuildable, words_of
from ckptaudit.behavior.encoded_probes import EncodedProbes, Writers, encoded, joined, notes, plain, writers
from ckptaudit.behavior.evidence import Evidence
from ckptaudit.behavior.facts import ProbeFacts
from ckptaudit.behavior.folders import folders
from ckptaudit.behavior.given_verdicts import GivenVerdicts
from ckptaudit.behavior.items import Item
from ckptaudit.behavior.probe import Probe
from ckptaudit.behavior.tokenizers import (
    Tokenizer,
    agreement,
    has_tokenizer,
    open_tokenizer,
    refuse_other_ids,
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
    """What is run for one pair: items, what wrote their tokens, and what a reader should know."""

    items: tuple[Item, ...]
    writers: Writers
    notes: tuple[str, ...] = ()

    def decode(self, ids: Sequence[int]) -> str:
        """Tokens as text, special ones left out."""
        text: str = self.writers.tuned.tokenizer.native.decode(list(ids), skip_special_tokens=True)
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
    weak = _weak_tokenizer(probes, base, before)
    chosen = writers(before, after, weak, probes.facts.template)
    texts, others = _encoded(probes, chosen, min(map(context_of, configs)), min(map(words_of, configs)))
    refuse_other_ids(before, after, list(_said(probes.probes)))
    items = joined(texts, others)
    encodings = (texts, *others.values())
    if not items:
        reason = next(one.reason for side in encodings for one in side.excluded)
        raise ProbeError(f"{parameter('probes')}: no probe is left to be judged ({reason}).")
    return Prepared(items, chosen, tuple(notes(encodings, items)))


def _encoded(
    probes: ProbeSet, chosen: Writers, context: int, words: int
) -> tuple[EncodedProbes, dict[str, EncodedProbes]]:
    """The probes as the tuned model sees them, and by side as models with a writer of their own do."""

    def by(side: str) -> EncodedProbes:
        named = side if chosen.own else ""
        openings = probes.facts.openings
        return encoded(probes.probes, chosen.of(side), openings, context=context, words=words, side=named)

    return by("tuned"), {side: by(side) for side in chosen.own}


def _weak_tokenizer(probes: ProbeSet, base: Checkpoint, tokenizer: Tokenizer) -> Tokenizer | None:
    """A weak model scores the same answers, and so must have the same tokens; None without one."""
    if probes.weak is None:
        return None
    refuse_unbuildable(probes.weak, probes.weak if probes.weak.config else base)
    own = _tokenizer(probes.weak) or tokenizer
    agreement(tokenizer, own)
    return own


def _said(probes: Sequence[Probe]) -> Iterator[str]:
    for probe in probes:
        yield from (plain(part) for part in (probe.prompt, *probe.completions))


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
