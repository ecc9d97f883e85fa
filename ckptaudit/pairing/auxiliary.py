"""What a claim may need beside the pair: gradients, a Fisher diagonal, a third checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ckptaudit.errors import CheckpointError, MeasurementError, PairingError, printable

if TYPE_CHECKING:
    from torch import Tensor

    from ckptaudit.checkpoints import Checkpoint
    from ckptaudit.pairing import AlignedTensor, Unaligned

Layout = Literal["samples", "weights", "adapter", "file"]


@dataclass(frozen=True, slots=True)
class InputKind:
    """An input by name, and how it is laid out.

    "samples": for each weight a stack `[samples, *shape]`; "weights": a tensor of the weight's own shape;
    "adapter": an adapter, whose product stands for each weight that it changes;
    "file": a file that its metric reads by itself.
    """

    name: str
    layout: Layout
    metavar: str
    help: str

    @property
    def option(self) -> str:
        """The option that gives it: `--audit-retain-gradients`."""
        return f"--audit-{self.name.replace('_', '-')}"

    @property
    def usage(self) -> str:
        """The option with what it takes: `--audit-retain-gradients FILE`."""
        return f"{self.option} {self.metavar}"


INPUTS: dict[str, InputKind] = {
    kind.name: kind
    for kind in (
        InputKind(
            "gradients", "samples", "FILE", "per-sample gradients of the task's loss: [samples, *shape] each"
        ),
        InputKind("retain_gradients", "samples", "FILE", "the same of the loss on what must be retained"),
        InputKind("fisher", "weights", "FILE", "diagonal of the Fisher information, in each weight's shape"),
        InputKind("aligned", "weights", "PATH", "the aligned checkpoint that the tuned one was fine-tuned from"),
        InputKind("adapter_init", "adapter", "PATH", "the tuned adapter as it was before training"),
        InputKind("probes", "file", "FILE", "probe text, one JSON object a line: text, or prompt and completion"),
    )
}


@dataclass(frozen=True, slots=True)
class Input:
    """One input that was given: its weights by the name that the pair knows them under."""

    kind: InputKind
    path: str
    samples: int = 1
    weights: Mapping[str, AlignedTensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def covers(self, tensor: AlignedTensor) -> bool:
        """Whether it says anything about this weight."""
        if self.kind.layout == "file":
            return True
        own = self.weights.get(tensor.name)
        return own is not None and own.matrix_shape == tensor.matrix_shape

    def read(self, tensor: AlignedTensor) -> Tensor:
        """`[samples, count, m, n]` as stored, where the weight holds `count` matrices; one sample for "weights".

        Raises CheckpointError if the file is damaged, MeasurementError if an entry is not finite.
        """
        stack = self.weights[tensor.name].tuned.read()
        if not bool(stack.isfinite().all()):
            raise MeasurementError(
                f"{self.kind.option} {printable(self.path)}: {tensor.name} has NaN or infinities"
            )
        return stack.reshape(self.samples, *tensor.matrix_shape)


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs that were given, by name."""

    given: Mapping[str, Input] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Input:
        return self.given[name]

    def lacking(self, names: Iterable[str], tensors: Sequence[AlignedTensor]) -> str:
        """Why a quantity that needs these inputs has no value for these weights; empty where it has one."""
        missing = [INPUTS[name].usage for name in names if name not in self.given]
        if missing:
            return f"needs {' and '.join(missing)}"
        blind = [self[name] for name in names if not any(self[name].covers(t) for t in tensors)]
        return f"{blind[0].kind.option} {printable(blind[0].path)} holds none of these weights" if blind else ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of them: weights they lack, tensors that the base does not have."""
        return tuple(note for one in self.given.values() for note in one.notes)

    @property
    def paths(self) -> dict[str, str]:
        """Where each came from."""
        return {name: one.path for name, one in self.given.items()}


def open_inputs(paths: Mapping[str, str], base: Checkpoint) -> Inputs:
    """Open inputs by name and match them with the base's weights; reads headers only.

    Raises CheckpointError or PairingError, in one sentence that names the option, the file and the mend.
    """
    return Inputs({name: _open(INPUTS[name], path, base) for name, path in paths.items()})


def _open(kind: InputKind, path: str, base: Checkpoint) -> Input:
    if kind.layout == "file":
        if not Path(path).is_file():
            raise CheckpointError(f"{kind.option} {printable(path)}: no such file.")
        return Input(kind, path)
    # Imported late: the table above is read by every pytest run, which should not wait for torch.
    from ckptaudit.checkpoints import merge_adapter, open_checkpoint
    from ckptaudit.pairing import pair_checkpoints

    opened = open_checkpoint(path)
    if kind.layout == "adapter" and opened.adapter is None:
        raise CheckpointError(
            f"{kind.option} {printable(opened.path)}: not an adapter; pass the folder PEFT saved."
        )
    # An adapter that counts as its own start can be merged whatever it was begun with.
    opened = merge_adapter(base, opened, opened)
    samples = 1
    if kind.layout == "samples":
        samples = _samples(kind, opened)
        opened = _without_samples(opened)
    try:
        pair = pair_checkpoints(base, opened)
    except PairingError:
        raise PairingError(_named_unlike(kind, base, opened)) from None
    _refuse_misfits(kind, pair.unaligned, path)
    wanted = (t for t in pair.aligned if kind.layout != "adapter" or t.tuned.product is not None)
    weights = {tensor.name: tensor for tensor in wanted}
    return Input(kind, opened.path, samples, weights, tuple(_notes(kind, opened.path, pair.unaligned)))


def _samples(kind: InputKind, opened: Checkpoint) -> int:
    counts = {handle.shape[0] if handle.shape else 0 for handle in opened.tensors.values()}
    if len(counts) != 1 or 0 in counts:
        raise CheckpointError(
            f"{kind.option} {printable(opened.path)}: every tensor must be a stack [samples, *shape] of the "
            f"same number of samples, found {sorted(counts)[:5]}; write it with `ckptaudit collect gradients`."
        )
    return counts.pop()


def _without_samples(opened: Checkpoint) -> Checkpoint:
    """The stacks under the shape of one sample, so that they pair with weights.

    What pairing does to a tensor from then on (turning it, taking a fused part) works on its last axes and so
    on every sample alike; what would cut its first axis is refused by `_refuse_misfits`.
    """
    handles = {name: replace(handle, shape=handle.shape[1:]) for name, handle in opened.tensors.items()}
    return replace(opened, tensors=handles)


def _refuse_misfits(kind: InputKind, unaligned: Sequence[Unaligned], path: str) -> None:
    fatal = ("shapes differ",) if kind.name == "aligned" else ("shapes differ", "rows beyond the common vocabulary")
    misfits = [u for u in unaligned if u.fault in fatal]
    if misfits:
        text = str(misfits[0]).replace("tuned [", "there [")
        raise PairingError(f"{kind.option} {printable(path)}: {text}; make it from this base model.")


def _notes(kind: InputKind, path: str, unaligned: Sequence[Unaligned]) -> Iterable[str]:
    for fault, words in (("only in base", "without"), ("only in tuned", "with unknown")):
        names = [printable(u.tensor) for u in unaligned if u.fault == fault]
        if names:
            more = ", ..." if len(names) > 3 else ""
            yield f"{kind.option} {printable(path)}: {words} {len(names)} weights ({', '.join(names[:3])}{more})"


def _named_unlike(kind: InputKind, base: Checkpoint, opened: Checkpoint) -> str:
    there, here = next(iter(opened.tensors)), next(iter(base.tensors))
    return (
        f"{kind.option} {printable(opened.path)}: none of its tensors is named like one of the base's (it has "
        f"{printable(there)[:80]}, the base has {printable(here)[:80]}); make it from this base model."
    )
