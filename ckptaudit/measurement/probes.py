"""Both models on the probes, once for all that is wanted of them; readings as measurements."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from ckptaudit.behavior.base_rows import Kept, Rows
from ckptaudit.behavior.causal_models import CausalModel, open_model
from ckptaudit.behavior.evidence import Evidence, Side
from ckptaudit.behavior.excerpts import excerpt
from ckptaudit.behavior.intervals import Interval, interval
from ckptaudit.behavior.items import Item
from ckptaudit.behavior.passes import Runner
from ckptaudit.behavior.preparation import Prepared, ProbeSet, prepare
from ckptaudit.behavior.row_table import text_rows
from ckptaudit.behavior.sets import EVERY_PROBE, subject_of_set
from ckptaudit.behavior.token_count import TokenCount, Watch
from ckptaudit.checkpoints import Checkpoint
from ckptaudit.errors import CkptAuditError, printable
from ckptaudit.measurement.base_cache import FactorCache
from ckptaudit.measurement.jobs import Unit
from ckptaudit.measurement.probe_rows import Origin, digest_of, write_rows
from ckptaudit.metrics import Measurement
from ckptaudit.metrics.behavior import ProbeReading, label_of, probes_metric_of
from ckptaudit.pairing.runs import Run, RunGroup

logger = logging.getLogger(__name__)

"""The subject of a reading over all probes together; every other is a probe set."""

Wanted = tuple[str, str]
"""A metric, and of what: "probe_set" or "probes"."""

LONGEST = 80
"""Characters of a probe's id that are kept."""


@dataclass
class ProbeRuns:
    """The models and rows of an audit: the base is built once, its rows are kept in the cache."""

    probes: ProbeSet
    base: Checkpoint
    device: torch.device
    cache: FactorCache | None = None
    watch: Watch | None = None
    groups: Sequence[RunGroup] = ()
    _opened: dict[str, CausalModel] = field(default_factory=dict)
    _prepared: dict[str, Prepared] = field(default_factory=dict)
    _intervals: dict[str, Interval] = field(default_factory=dict)

    def prepared(self, run: Run) -> Prepared:
        """The probes as tokens. Raises ProbeError or MeasurementError."""
        if run.path not in self._prepared:
            self._prepared[run.path] = prepare(self.probes, self.base, run.pair.tuned)
        return self._prepared[run.path]

    def evidence(self, run: Run, wanted: Sequence[Wanted]) -> Evidence:
        """What both models do on the probes, as far as the wanted metrics ask. Raises CkptAuditError."""
        prepared = self.prepared(run)
        passes = {p for name, _ in wanted for p in probes_metric_of(name).passes}
        # Before the models of the pair are there: no more than three are at once.
        intervals = self._up_to(run) if "intervals" in passes else ()
        runner = self._runner(run, prepared)
        found = replace(runner.evidence(passes), verdicts=self.probes.verdicts, intervals=intervals)
        if self.probes.damage is not None:
            return self.probes.damage(found)
        if run.path in self.probes.rows:
            self._write_rows(run, runner, found)
        return found

    def _runner(self, run: Run, prepared: Prepared) -> Runner:
        return Runner(
            base=self._model(self.base),
            tuned=open_model(run.pair.tuned, self.base, self.device, self.probes.dtype, run.pair),
            items=prepared.items,
            decode=prepared.decode,
            facts=self.probes.facts,
            weak=None if self.probes.weak is None else self._model(self.probes.weak),
            lookup=self._lookup,
            counted=TokenCount(self.watch),
        )

    def _write_rows(self, run: Run, runner: Runner, found: Evidence) -> None:
        """Raises ReportError."""
        checkpoints: dict[Side, str] = {"base": self.base.path, "tuned": run.path}
        models: dict[Side, CausalModel] = {"base": runner.base, "tuned": runner.tuned}
        if self.probes.weak is not None and runner.weak is not None:
            checkpoints["weak"], models["weak"] = self.probes.weak.path, runner.weak
        wrote = {side: self.prepared(run).writers.of(side) for side in models}
        origin = Origin(
            checkpoints={side: printable(path) for side, path in checkpoints.items()},
            weights={side: model.digest for side, model in models.items()},
            tokenizers={side: writer.tokenizer.digest for side, writer in wrote.items()},
            templates={side: digest_of(writer.template) for side, writer in wrote.items()},
            setting=digest_of((self.probes.facts, self.probes.dtype)),
        )
        end = next(iter(runner.tuned.end_tokens), None)
        write_rows(self.probes.rows[run.path], text_rows(found, end), origin)

    def _up_to(self, run: Run) -> tuple[Interval, ...]:
        """From the base to the first save of the run, from each to the next, up to this one; none of the first."""
        group = next((g for g in self.groups if g.over == "steps" and run in g.runs), None)
        if group is None or group.position(run) == 0:
            return ()
        before, passed, steps = self.base, 0, group.order.steps
        items: tuple[Item, ...] | None = None
        for save, step in zip(group.runs[: group.position(run) + 1], steps, strict=False):
            earlier, items = items, self._as_the_base_sees(save)
            if save.path not in self._intervals:
                models = self._saved(before, group), self._saved(save.pair.tuned, group)
                known = {item.probe.id for item in (items if earlier is None else earlier)}
                shared = [item for item in items if item.probe.id in known]
                self._intervals[save.path] = interval(*models, step - passed, shared)
            before, passed = save.pair.tuned, step
        return tuple(self._intervals[save.path] for save in group.runs[: group.position(run) + 1])

    def _as_the_base_sees(self, run: Run) -> tuple[Item, ...]:
        """The probes whose texts are the same tokens for the base and this run."""
        return tuple(item.of("base") for item in self.prepared(run).items if item.alike("texts"))

    def _saved(self, checkpoint: Checkpoint, group: RunGroup) -> CausalModel:
        pair = next((save.pair for save in group.runs if save.pair.tuned is checkpoint), None)
        if pair is None:
            return self._model(self.base)
        return open_model(checkpoint, self.base, self.device, self.probes.dtype, pair)

    def _model(self, checkpoint: Checkpoint) -> CausalModel:
        if checkpoint.path not in self._opened:
            self._opened[checkpoint.path] = open_model(checkpoint, self.base, self.device, self.probes.dtype)
        return self._opened[checkpoint.path]

    def _lookup(self, key: str) -> Kept | None:
        cache = self.cache
        if cache is None:
            return None

        def keep(rows: Rows) -> None:
            cache.write(key, rows)

        return Kept(cache.read(key), keep)


def measure_probes(runs: ProbeRuns, run: Run, wanted: Sequence[Wanted], unit: Unit) -> list[Measurement]:
    """Every wanted metric, of each probe set ("set NAME", "probes without a set") or of all together ("probes").

    Where a model cannot be run there is no number at all: every metric is there once, about the unit's own subject,
    without a value and with the reason.
    """
    try:
        evidence = runs.evidence(run, wanted)
        return [*readings(evidence, runs.probes.sets, wanted, unit), _excerpt(runs, run, evidence, unit)]
    except CkptAuditError as error:
        reason = error.sentence
    except Exception as error:
        logger.debug("probes could not be run", exc_info=True)
        reason = f"{type(error).__name__}: {printable(error)[:300]}"
    return [
        _row(unit.subject, metric, ProbeReading(None, remark=reason), unit)
        for metric in dict.fromkeys(name for name, _ in wanted)
    ]


def _excerpt(runs: ProbeRuns, run: Run, evidence: Evidence, unit: Unit) -> Measurement:
    prepared = runs.prepared(run)
    shown = excerpt(evidence, prepared.decode, lambda item: label_of(item.probe), prepared.notes)
    return Measurement(unit.subject, None, "", (), "", None, "exact", tuned=unit.run, excerpt=shown)


def readings(
    evidence: Evidence, sets: Sequence[str], wanted: Sequence[Wanted], unit: Unit
) -> Iterator[Measurement]:
    """Every wanted metric, of each set that has fitting probes or of all probes together."""
    for metric, per in wanted:
        subjects = {EVERY_PROBE: None} if per == "probes" else {subject_of_set(name): name for name in sets}
        for subject, name in subjects.items():
            reading = probes_metric_of(metric).reading(evidence, name)
            if reading is not None:
                yield _row(subject, metric, reading, unit)


def _row(subject: str, metric: str, reading: ProbeReading, unit: Unit) -> Measurement:
    estimated = reading.value is not None
    return Measurement(
        subject,
        None,
        "",
        (),
        metric,
        reading.value,
        "exact",
        worst=", ".join(map(_shortened, reading.worst)),
        remark=printable(reading.remark),
        tuned=unit.run,
        method="sampled" if estimated else "direct",
        samples=reading.samples,
        low=reading.low if estimated else None,
        high=reading.high if estimated else None,
        reach=reading.reach if estimated else None,
    )


def _shortened(name: str) -> str:
    clean = printable(name)
    return clean if len(clean) <= LONGEST else f"{clean[:LONGEST]}..."
