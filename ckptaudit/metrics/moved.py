"""Where a run left its base alone: layers, experts, shards and tensors that should have changed with the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from ckptaudit.findings import Finding
from ckptaudit.metrics.evidence import RunEvidence
from ckptaudit.metrics.findings import findings_metric
from ckptaudit.metrics.movement import (
    DIFFERING,
    FEW_CHANGED,
    FEW_OF_TOUCHED,
    Movement,
    Part,
    is_meant,
    is_nearly_base,
)
from ckptaudit.metrics.stale_experts import experts_at_base, untouched_experts
from ckptaudit.metrics.untouched import untouched

MINORITY = 1 / 3
"""Most stale layers among those of a stack that can be an accident of saving and no choice of layers."""

SCATTERED = 1 / 2
"""The same of layers that are not one block. Training of a few new or chosen layers leaves most at the base."""

BY_FULL_TRAINING = ("vocabulary", "norm", "bias")
"""Groups that adapters leave alone: where they changed, the run trained in full."""

AT_BASE = "bitwise the base's"


@findings_metric(
    scope="run",
    unit="layers",
    formula="#{layers at the base between changed ones, and files at the base that cut a layer, in a run in full}",
    rests_on=(DIFFERING,),
)
def stale_layers(evidence: RunEvidence) -> list[Finding]:
    """Layers left at the base that cannot have been left there on purpose, and stale files of a sharded save."""
    return list(Stale.of(evidence).by_accident)


@findings_metric(
    scope="run",
    unit="parts",
    formula="#{other layers, experts and tensors at the base whose like changed elsewhere}",
    rests_on=(DIFFERING,),
)
def parts_at_base(evidence: RunEvidence) -> list[Finding]:
    """Layers, experts and tensors left at the base while their like changed, which may be on purpose."""
    stale = Stale.of(evidence)
    if is_nearly_base(stale.movement):
        return []
    return [*stale.perhaps_on_purpose, *experts_at_base(stale.movement), *stale.tensors]


@findings_metric(
    scope="run",
    unit="parts",
    formula="#{roles, towers and rarely used experts that the run left at the base everywhere}",
    rests_on=(DIFFERING,),
)
def untouched_parts(evidence: RunEvidence) -> list[Finding]:
    """Roles of matrices and towers that changed nowhere: frozen, or lost on the way; the pair cannot tell which."""
    movement = Movement.of(evidence)
    return [] if is_nearly_base(movement) else [*untouched(movement), *untouched_experts(movement)]


@findings_metric(
    scope="run",
    unit="runs",
    formula=f"1 if under {FEW_CHANGED:g} of all and {FEW_OF_TOUCHED:g} of touched tensors' entries changed; else 0",
    rests_on=(DIFFERING,),
)
def nearly_base(evidence: RunEvidence) -> list[Finding]:
    """Whether so few entries changed that the file is the base in all but name."""
    movement = Movement.of(evidence)
    if not is_nearly_base(movement):
        return []
    changed = [p for p in movement.parts if p.changed]
    total, count = sum(p.entries for p in movement.parts), sum(p.differing for p in changed)
    where = changed[0].name if len(changed) == 1 else f"{len(changed)} of {len(movement.parts)} tensors"
    return [Finding("model", "nearly the base", f"{count:,.0f} of {total:,} entries changed, in {where}")]


@findings_metric(
    scope="run",
    unit="tensors",
    formula="#{tensors named as frozen that changed} + #{patterns of frozen that name nothing}",
    rests_on=(DIFFERING,),
)
def changed_frozen_parts(evidence: RunEvidence) -> list[Finding]:
    """Tensors that the configuration calls frozen, and that changed; and patterns that name no tensor."""
    frozen = Movement.of(evidence).frozen
    changed = [
        Finding(
            p.name, "changed though frozen", f"{p.differing:,.0f} of {p.entries:,} entries differ from the base"
        )
        for p in frozen
        if p.changed
    ]
    idle = [p for p in evidence.frozen if not any(is_meant(p, part) for part in frozen)]
    return [*changed, *(Finding(p, "names nothing", "no tensor or role of this model fits it") for p in idle)]


@dataclass(frozen=True)
class Stale:
    """The stale parts of a run by what they have in common: a file, a layer, nothing."""

    movement: Movement

    @classmethod
    def of(cls, evidence: RunEvidence) -> Stale:
        """Those of the evidence's run."""
        return cls(Movement.of(evidence))

    @property
    def by_accident(self) -> Iterator[Finding]:
        """Files that cut a layer, and layers between changed ones of a run in full."""
        yield from self.files.values()
        for stack, layers in self.layers.items():
            yield from self._layers(stack, [at for at in layers if self._is_accident(stack, at)])

    @property
    def perhaps_on_purpose(self) -> Iterator[Finding]:
        """The other layers at the base."""
        for stack, layers in self.layers.items():
            yield from self._layers(stack, [at for at in layers if not self._is_accident(stack, at)])

    @property
    def tensors(self) -> Iterator[Finding]:
        """Tensors at the base in layers that changed otherwise."""
        explained = {(stack, at) for stack, layers in self.layers.items() for at in layers}
        for part in self._left:
            if part.expert is None and (part.place.stack, part.place.layer) not in explained:
                others = self.movement.changed_of[part.kin]
                said = f"{part.place.role} changed in {others} of {len(self.movement.by_kin[part.kin])} places"
                yield Finding(part.name, AT_BASE if not part.changed else _nearly(part), said)

    @cached_property
    def files(self) -> dict[str, Finding]:
        """Files of the tuned side that hold stale tensors alone and end within a layer that changed elsewhere."""
        groups: dict[str, list[Part]] = {}
        for part in self.movement.expected:
            # A file of the base below an adapter is what it should be.
            if not part.inherited:
                groups.setdefault(str(part.tensor.tuned.file), []).append(part)
        found = {}
        for file, parts in groups.items() if len(groups) > 1 else ():
            if all(p.name in self.movement.stale for p in parts) and self._cuts(file, parts):
                said = (
                    f"none of its {len(parts)} comparable tensors changed, though layers that it cuts did elsewhere"
                )
                found[file] = Finding(parts[0].tensor.tuned.file.name, AT_BASE, f"{said}; save or copy it again")
        return found

    @cached_property
    def layers(self) -> dict[str, tuple[int, ...]]:
        """By stack, the layers in which nothing changed that changed elsewhere."""
        changed = {(p.place.stack, p.place.layer) for p in self.movement.parts if self._has_changed(p)}
        found: dict[str, dict[int, None]] = {}
        for part in self._left:
            at = part.place.layer
            if at is not None and (part.place.stack, at) not in changed:
                found.setdefault(part.place.stack, {})[at] = None
        return {stack: tuple(sorted(layers)) for stack, layers in found.items()}

    @cached_property
    def _left(self) -> list[Part]:
        """The stale parts that no file explains."""
        stale = (p for p in self.movement.parts if p.name in self.movement.stale)
        return [p for p in stale if str(p.tensor.tuned.file) not in self.files]

    @cached_property
    def _changed_layers(self) -> dict[str, list[int]]:
        found: dict[str, dict[int, None]] = {}
        for part in self.movement.parts:
            if part.place.layer is not None and self._has_changed(part):
                found.setdefault(part.place.stack, {})[part.place.layer] = None
        return {stack: sorted(layers) for stack, layers in found.items()}

    def _has_changed(self, part: Part) -> bool:
        return part.changed and part.name not in self.movement.stale

    def _cuts(self, file: str, parts: Sequence[Part]) -> bool:
        """Whether a layer of these parts changed in another file."""
        inside = {(p.place.stack, p.place.layer) for p in parts if p.place.layer is not None}
        return any(
            (p.place.stack, p.place.layer) in inside and self._has_changed(p)
            for p in self.movement.parts
            if str(p.tensor.tuned.file) != file
        )

    def _is_accident(self, stack: str, layer: int) -> bool:
        changed = self._changed_layers.get(stack, [])
        stale = self.layers[stack]
        total = len(changed) + len(stale)
        few = len(stale) <= max(1, MINORITY * total)
        scattered = len(runs_of(stale)) > 1 and len(stale) <= SCATTERED * total
        is_inside = bool(changed) and changed[0] < layer < changed[-1]
        if not (is_inside and (few or scattered) and self._is_in_full):
            return False
        return any(not part.inherited for part in self._parts_of(stack, (layer,)))

    def _parts_of(self, stack: str, layers: Sequence[int]) -> list[Part]:
        return [p for p in self._left if p.place.stack == stack and p.place.layer in layers]

    @cached_property
    def _is_in_full(self) -> bool:
        return any(p.changed and p.tensor.group in BY_FULL_TRAINING for p in self.movement.parts)

    def _layers(self, stack: str, layers: Sequence[int]) -> Iterator[Finding]:
        for run in runs_of(layers):
            count = len(self.layers[stack]) + len(self._changed_layers.get(stack, []))
            parts = self._parts_of(stack, run)
            first, last = run[0], run[-1]
            words = f"layer {first} of {count} is" if first == last else f"layers {first} to {last} of {count} are"
            said = f"{words} the base's: none of {len(parts)} tensors whose like changed elsewhere did"
            files = {p.tensor.tuned.file.name for p in parts if not p.inherited}
            held = f"; all in {next(iter(files))}" if len(files) == 1 and self._has_several_files else ""
            name = f"layers.{first}" if first == last else f"layers.{first}-{last}"
            yield Finding(f"{stack}.{name}" if stack else name, AT_BASE, said + held)

    @cached_property
    def _has_several_files(self) -> bool:
        return len({p.tensor.tuned.file for p in self.movement.parts}) > 1


def runs_of(numbers: Iterable[int]) -> list[list[int]]:
    """Ascending numbers as runs of consecutive ones."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def _nearly(part: Part) -> str:
    return f"the base's but for {part.differing:,.0f} of {part.entries:,} entries"
