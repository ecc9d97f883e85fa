"""Models and probes to evidence: every forward pass and every answer that is wanted, each run once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from ckptaudit.behavior.asking import asked, settings
from ckptaudit.behavior.base_rows import Lookup, scored_rows, spoken_rows, unkept
from ckptaudit.behavior.causal_models import CausalModel
from ckptaudit.behavior.comparison import ComparedText, compare
from ckptaudit.behavior.evidence import Evidence, Key, Pass, Side, Spoken
from ckptaudit.behavior.facts import ProbeFacts
from ckptaudit.behavior.generation import GREEDY, SAMPLED
from ckptaudit.behavior.items import COMPARED, Item
from ckptaudit.behavior.padding import padding_is_seen, rounding_floor
from ckptaudit.behavior.scoring import Scored, ScoredText
from ckptaudit.behavior.states import PooledStates, pooled_states
from ckptaudit.behavior.token_count import TokenCount
from ckptaudit.behavior.workload import expected

Decode = Callable[[Sequence[int]], str]

ANSWERED = ("prompt", "completion", "labelled")
"""Kinds of probes that are answered."""


@dataclass(frozen=True)
class Runner:
    """The models of one pair on one file of probes. `counted` are the tokens that are finished."""

    base: CausalModel
    tuned: CausalModel
    items: tuple[Item, ...]
    decode: Decode
    facts: ProbeFacts = field(default_factory=ProbeFacts)
    weak: CausalModel | None = None
    lookup: Lookup = unkept
    counted: TokenCount = field(default_factory=TokenCount)

    def evidence(self, wanted: Iterable[Pass]) -> Evidence:
        """The rows of the passes wanted, and of those that they rest on. Raises MeasurementError."""
        passes = {p for name in wanted for p in (name, *RESTS_ON.get(name, ()))}
        found = Evidence(
            self.items,
            refusals=self.facts.refusals,
            floor=self._floor,
            notes=self._notes,
            answered=frozenset(i.probe.id for i in self._answered),
        )
        self.counted.expect(expected(self.items, self._answered, self.facts, passes, weak=self.weak is not None))
        found = self._spoken(found, passes)
        for name in ORDER:
            if name in passes:
                found = getattr(self, f"_{name}")(found)
        self.counted.finish()
        return found

    @cached_property
    def _alike(self) -> bool:
        models: dict[Side, CausalModel] = {"base": self.base, "tuned": self.tuned}
        texts = {side: self._all_texts(side) for side in models}
        return any(texts[side] and padding_is_seen(model, texts[side]) for side, model in models.items())

    def _all_texts(self, side: Side) -> list[Scored]:
        items = [item.of(side) for item in self.items]
        return [text for item in items for text in item.texts] or [
            Scored(item.prompt, 1) for item in items if len(item.prompt) > 1
        ]

    @property
    def _floor(self) -> float:
        texts = self._all_texts("base")
        return rounding_floor(self.base, texts) if texts else 0.0

    @property
    def _notes(self) -> tuple[str, ...]:
        return ("texts are run in batches of one length: this model sees padding",) if self._alike else ()

    def _texts(self, found: Evidence) -> Evidence:
        given = [item for item in self.items if item.texts and item.probe.kind not in COMPARED]
        items = [item for item in given if item.alike("texts")]
        rows = self._compared([item.texts[0] for item in items])
        compared = {item.probe.id: row for item, row in zip(items, rows, strict=True)}
        return replace(found, texts=compared, apart=self._apart([i for i in given if i.probe.id not in compared]))

    def _apart(self, items: Sequence[Item]) -> dict[Side, Mapping[str, ScoredText]]:
        """Each model on texts whose tokens are its own."""
        if not items:
            return {}
        return {side: self._by_probe(side, {(i.probe.id, 0): i.of(side).texts[0] for i in items}) for side in SIDES}

    def _compared(self, texts: Sequence[Scored]) -> list[ComparedText]:
        return compare(self.base, self.tuned, texts, alike=self._alike, done=self.counted.scored)

    def _pairs(self, found: Evidence) -> Evidence:
        return replace(found, scores={**found.scores, **self._scores(("base", "tuned"))})

    def _weak(self, found: Evidence) -> Evidence:
        return replace(found, scores={**found.scores, **self._scores(("weak",))}) if self.weak else found

    def _scores(self, sides: Sequence[Side]) -> dict[Side, Mapping[Key, ScoredText]]:
        compared = [item for item in self.items if item.probe.kind in COMPARED]
        return {
            side: self._scored(
                side, {(i.probe.id, n): text for i in compared for n, text in enumerate(i.of(side).texts)}
            )
            for side in sides
        }

    def _scored(self, side: Side, texts: Mapping[Key, Scored]) -> dict[Key, ScoredText]:
        model, lookup = self._model(side)
        rows = scored_rows(model, list(texts.values()), lookup, alike=self._alike, done=self.counted.scored)
        return dict(zip(texts, rows, strict=True))

    def _model(self, side: Side) -> tuple[CausalModel, Lookup]:
        model = {"base": self.base, "tuned": self.tuned, "weak": self.weak}[side]
        assert model is not None  # the pass of the weak model is left out without one
        return model, unkept if side == "tuned" else self.lookup

    def _unprompted(self, found: Evidence) -> Evidence:
        completed = [item for item in self.items if item.probe.kind in ("completion", "labelled")]
        rows: dict[Side, Mapping[str, ScoredText]] = {}
        for side in SIDES:
            alone = {(item.probe.id, 0): item.of(side).unprompted for item in completed}
            rows[side] = self._by_probe(side, {key: text for key, text in alone.items() if text is not None})
        return replace(found, unprompted=rows)

    def _by_probe(self, side: Side, texts: Mapping[Key, Scored]) -> dict[str, ScoredText]:
        return {key[0]: row for key, row in self._scored(side, texts).items()}

    def _openings(self, found: Evidence) -> Evidence:
        classed = [item for item in self.items if item.probe.safety is not None]
        rows = {
            side: self._scored(
                side, {(i.probe.id, n): text for i in classed for n, text in enumerate(i.of(side).openings)}
            )
            for side in SIDES
        }
        return replace(found, openings=rows)

    @cached_property
    def _answered(self) -> list[Item]:
        asked = [item for item in self.items if item.prompt and item.probe.kind in ANSWERED]
        return asked[: self.facts.max_prompts]

    def _spoken(self, found: Evidence, passes: Collection[Pass]) -> Evidence:
        """All answers of either model, whatever passes want them: together they fill batches soonest."""
        spoken: dict[tuple[Side, str], dict[Key, Spoken]] = {
            (side, setting.name): {} for setting in settings(self.facts, passes) for side in SIDES
        }
        for side in SIDES:
            model, lookup = self._model(side)
            wanted = asked([item.of(side) for item in self._answered], self.facts, passes)
            rows = spoken_rows(
                model, [request for _, request in wanted], lookup,
                most=self.facts.max_new_tokens, seed=self.facts.seed, alike=self._alike, done=self.counted.answered,
            )  # fmt: skip
            for (key, request), row in zip(wanted, rows, strict=True):
                spoken[side, request.setting.name][key] = Spoken(
                    self.decode(row.ids), row.ids, row.stop, row.length
                )
        return replace(found, spoken=spoken)

    def _samples(self, found: Evidence) -> Evidence:
        return self._embedded(self._with_entropy(found))

    def _continued(self, found: Evidence, side: Side, setting: str) -> dict[Key, Scored]:
        """Prompts with the answers that were given to them, the answers scored; those that are empty left out."""
        prompts = {item.probe.id: item.of(side).prompt for item in self._answered}
        ends = self._model(side)[0].end_tokens[:1]
        texts = {}
        for key, said in found.spoken[side, setting].items():
            ids = (*prompts[key[0]], *said.ids, *(ends if said.stop == "end" else ()))
            if len(ids) > len(prompts[key[0]]):
                texts[key] = Scored(ids, len(prompts[key[0]]))
        return texts

    def _answers(self, found: Evidence) -> Evidence:
        alike = {item.probe.id for item in self._answered if item.alike("prompt")}
        said = self._continued(found, "tuned", GREEDY.name)
        texts = {key: text for key, text in said.items() if key[0] in alike}
        rows = self._compared(list(texts.values()))
        return replace(found, answers={key[0]: row for key, row in zip(texts, rows, strict=True)})

    def _with_entropy(self, found: Evidence) -> Evidence:
        spoken = dict(found.spoken)
        for side in SIDES:
            own = dict(spoken[side, SAMPLED.name])
            for key, row in self._scored(side, self._continued(found, side, SAMPLED.name)).items():
                own[key] = replace(own[key], entropy=float(row.entropy.mean()))
            spoken[side, SAMPLED.name] = own
        return replace(found, spoken=spoken)

    def _embedded(self, found: Evidence) -> Evidence:
        """Answers in the hidden states of the base: one ruler for both models."""
        rows: dict[Side, PooledStates] = {}
        for side in SIDES:
            said = [s.ids or (0,) for s in found.spoken[side, SAMPLED.name].values()]
            if said:
                rows[side] = pooled_states(self.base, said, alike=self._alike, done=self.counted.scored)
        return replace(found, embedded=rows)

    def _states(self, found: Evidence) -> Evidence:
        chosen = [item for item in self.items if item.prompt and item.probe.safety is not None]
        if not chosen:
            return found
        rows: dict[Side, PooledStates] = {}
        for side in SIDES:
            prompts = [item.of(side).prompt for item in chosen]
            rows[side] = pooled_states(self._model(side)[0], prompts, alike=self._alike, done=self.counted.scored)
        return replace(found, states=rows, stated=tuple(item.probe.id for item in chosen))


SIDES: tuple[Side, ...] = ("base", "tuned")

ORDER: tuple[Pass, ...] = (
    "texts", "pairs", "weak", "unprompted", "openings", "answers", "samples", "states",
)  # fmt: skip
"""What is run once all answers are given."""

RESTS_ON: dict[Pass, tuple[Pass, ...]] = {"answers": ("greedy",), "settings": ("greedy",)}
