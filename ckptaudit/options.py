"""Choices and defaults that plugin, command line and Python API share. Every pytest run loads this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Several = Literal["auto", "steps", "siblings", "apart"]
SEVERAL: tuple[Several, ...] = ("auto", "steps", "siblings", "apart")
"""What several tuned checkpoints are to each other."""

DEFAULT_MEMORY = "256MiB"

DTYPES = ("float32", "bfloat16", "float16")
"""Precisions in which models are run on probes."""

FACTOR = 2.0
"""How many times worse than a released run is a failure, unless the user says otherwise."""

Layout = Literal["samples", "weights", "adapter", "checkpoints", "model", "file", "log"]


@dataclass(frozen=True, slots=True)
class AuxiliaryKind:
    """What a claim may need beside the pair, by name, and how it is laid out.

    "samples": for each weight a stack `[samples, *shape]`; "weights": a tensor of the weight's own shape;
    "adapter": an adapter, whose product stands for each weight that it changes;
    "checkpoints": checkpoints separated by commas, each paired with the base;
    "model": a checkpoint that is run and not paired;
    "file": a file that its metric reads by itself; "log": a file or folder that a trainer logged to.
    """

    name: str
    layout: Layout
    metavar: str
    help: str


AUXILIARY: dict[str, AuxiliaryKind] = {
    kind.name: kind
    for kind in (
        AuxiliaryKind(
            "gradients", "samples", "FILE", "per-sample gradients of the task's loss: [samples, *shape] each"
        ),
        AuxiliaryKind("retain_gradients", "samples", "FILE", "the same of the loss on what must be retained"),
        AuxiliaryKind("fisher", "weights", "FILE", "diagonal of the Fisher information, in each weight's shape"),
        AuxiliaryKind(
            "aligned", "weights", "PATH", "the aligned checkpoint that the tuned one was fine-tuned from"
        ),
        AuxiliaryKind(
            "reference", "weights", "PATH", "another run from the base, such as a supervised one, to compare with"
        ),
        AuxiliaryKind("adapter_init", "adapter", "PATH", "the tuned adapter as it was before training"),
        AuxiliaryKind("adapter", "adapter", "PATH", "the adapter that was merged into the base"),
        AuxiliaryKind(
            "parents", "checkpoints", "A,B,...", "the checkpoints that were merged, in the order of their weights"
        ),
        AuxiliaryKind("weak", "model", "PATH", "a weaker model whose judgement training relied on"),
        AuxiliaryKind(
            "probes", "file", "FILE", "probe text, one JSON object a line: text, or prompt and completion"
        ),
        AuxiliaryKind(
            "verdicts", "file", "FILE", "what judges, reward models and references say of the probes, joined by id"
        ),
        AuxiliaryKind(
            "rollouts", "log", "PATH", "the rollouts that the trainer of the run logged, as folder or file"
        ),
        AuxiliaryKind("scalars", "log", "PATH", "the curves of the run: TensorBoard, MLflow, wandb or JSON lines"),
    )
}


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """What an audit is asked for, whoever asks.

    `tuned` may hold patterns and `FOLDER@all`; `several` says what the runs are to each other. `rollouts` are the
    logs of one run or several, `scalars` their curves: beside a pair, or alone, without `base` and `tuned`.
    `auxiliary` gives by name what some claims need beside the pair. `complete` measures every standing metric of
    every matrix, not only what the verdicts rest on. With `strict` a warning closes the gate; without `waivers`
    none holds. `memory` is the budget in bytes for a batch of small matrices; `cache` a folder, "off", or None for
    the default place. `digest` takes the SHA-256 of every file of both sides. `dtype` is the precision in which
    models are run on probes, and `probe_rows` a Parquet file for what they say token by token. `command` is what
    the result reports as the command line.
    """

    base: str = ""
    tuned: tuple[str, ...] = ()
    rollouts: tuple[str, ...] = ()
    scalars: tuple[str, ...] = ()
    profile: str = ""
    device: str = "auto"
    exact: bool = False
    complete: bool = True
    strict: bool = False
    waivers: bool = True
    cache: str | None = None
    memory: str = DEFAULT_MEMORY
    dtype: str = "float32"
    probe_rows: str | None = None
    several: Several = "auto"
    auxiliary: Mapping[str, str] = field(default_factory=dict)
    against: str | None = None
    against_factor: float = FACTOR
    digest: bool = False
    workers: str = ""
    command: tuple[str, ...] = ()

    @property
    def logs(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The logs of rollouts and their curves, whichever way they were given."""
        named = [(name, self.auxiliary[name]) for name in ("rollouts", "scalars") if name in self.auxiliary]
        beside = {name: (path,) for name, path in named}
        rollouts = (*beside.get("rollouts", ()), *self.rollouts)
        return rollouts, (*beside.get("scalars", ()), *self.scalars)
