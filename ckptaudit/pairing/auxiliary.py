"""What a claim may need beside the pair: gradients, a Fisher diagonal, a third checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ckptaudit.errors import CheckpointError, MeasurementError, PairingError, parameter, printable
from ckptaudit.foreign_files import regular_size
from ckptaudit.options import AUXILIARY, AuxiliaryKind

if TYPE_CHECKING:
    from torch import Tensor

    from ckptaudit.checkpoints import Checkpoint
    from ckptaudit.findings import Finding
    from ckptaudit.pairing import AlignedTensor


@dataclass(frozen=True, slots=True)
class AuxiliaryInput:
    """One input that was given: its weights by the name that the pair knows them under."""

    kind: AuxiliaryKind
    path: str
    samples: int = 1
    weights: Mapping[str, AlignedTensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    opened: Checkpoint | None = None
    checkpoints: tuple[Checkpoint, ...] = ()
    """What was opened: an adapter as its factors, or several checkpoints in order."""

    def covers(self, tensor: AlignedTensor) -> bool:
        """Whether it says anything about this weight."""
        if self.kind.layout in ("file", "checkpoints", "model", "log"):
            return True
        own = self.weights.get(tensor.name)
        return own is not None and own.matrix_shape == tensor.matrix_shape

    def read(self, tensor: AlignedTensor) -> Tensor:
        """`[samples, count, m, n]` as stored, where the weight holds `count` matrices; one sample for "weights".

        Raises CheckpointError if the file is damaged, MeasurementError if an entry is no number or not finite.
        """
        stack = self.weights[tensor.name].tuned.read()
        if not stack.is_floating_point():
            raise MeasurementError(
                f"{parameter(self.kind.name)} {printable(self.path)}: {printable(tensor.name)} is stored as "
                f"{str(stack.dtype).removeprefix('torch.')}, where floating-point numbers are needed"
            )
        if not bool(stack.isfinite().all()):
            raise MeasurementError(
                f"{parameter(self.kind.name)} {printable(self.path)}: {tensor.name} has NaN or infinities"
            )
        return stack.reshape(self.samples, *tensor.matrix_shape)


@dataclass(frozen=True, slots=True)
class Auxiliary:
    """The inputs that were given, by name."""

    given: Mapping[str, AuxiliaryInput] = field(default_factory=dict)

    def __getitem__(self, name: str) -> AuxiliaryInput:
        """The input of that name. Raises MeasurementError if it was not given."""
        if name not in self.given:
            raise MeasurementError(f"{parameter(name)} {AUXILIARY[name].metavar} is needed here and was not given.")
        return self.given[name]

    def lacking(self, names: Iterable[str], tensors: Sequence[AlignedTensor]) -> str:
        """Why a quantity that needs these inputs has no value for these weights; empty where it has one."""
        names = tuple(names)
        if missing := self.missing(names):
            return missing
        blind = [self[name] for name in names if not any(self[name].covers(t) for t in tensors)]
        return (
            f"{parameter(blind[0].kind.name)} {printable(blind[0].path)} holds none of these weights"
            if blind
            else ""
        )

    def missing(self, names: Iterable[str]) -> str:
        """Which of these inputs were not given, in words; empty where all were."""
        missing = [f"{parameter(name)} {AUXILIARY[name].metavar}" for name in names if name not in self.given]
        return f"needs {' and '.join(missing)}" if missing else ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of them: weights they lack, tensors that the base does not have."""
        return tuple(note for one in self.given.values() for note in one.notes)

    @property
    def paths(self) -> dict[str, str]:
        """Where each came from."""
        return {name: one.path for name, one in self.given.items()}


def open_auxiliary(paths: Mapping[str, str], base: Checkpoint) -> Auxiliary:
    """Open inputs by name and match them with the base's weights; reads headers only.

    Raises CheckpointError or PairingError, in one sentence that names the option, the file and the mend.
    """
    if "adapter" in paths and base.merged_from is not None:
        raise CheckpointError(
            f"{parameter('adapter')} {printable(paths['adapter'])}: the base is merged with an adapter already; "
            f"give it once, as {parameter('base')} BASE+ADAPTER or as {parameter('adapter')} ADAPTER."
        )
    return Auxiliary({name: _open(AUXILIARY[name], path, base) for name, path in paths.items()})


def _refuse_other_kinds(kind: AuxiliaryKind, path: Path) -> None:
    try:
        regular_size(path)
    except FileNotFoundError:
        raise CheckpointError(f"{parameter(kind.name)} {printable(path)}: no such file.") from None
    except OSError as error:
        said = printable(error.strerror or error)
        raise CheckpointError(f"{parameter(kind.name)} {printable(path)}: {said}.") from None


def _open(kind: AuxiliaryKind, path: str, base: Checkpoint) -> AuxiliaryInput:
    if kind.layout == "file":
        _refuse_other_kinds(kind, Path(path))
        return AuxiliaryInput(kind, path)
    if kind.layout == "log":  # opened by itself: there may be several
        return AuxiliaryInput(kind, path)
    # Imported late: the table above is read by every pytest run, which should not wait for torch.
    from ckptaudit.checkpoints import merge_adapter, open_checkpoint
    from ckptaudit.pairing import pair_checkpoints

    if kind.layout == "model":
        return AuxiliaryInput(kind, path, opened=merge_adapter(base, open_checkpoint(path)))
    if kind.layout == "checkpoints":
        return AuxiliaryInput(kind, path, checkpoints=_parents(kind, path, base))
    given = opened = open_checkpoint(path)
    if kind.layout == "adapter" and opened.adapter is None:
        raise CheckpointError(
            f"{parameter(kind.name)} {printable(opened.path)}: not an adapter; pass the folder PEFT saved."
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
    notes = tuple(_notes(kind, opened.path, pair.unaligned))
    return AuxiliaryInput(kind, opened.path, samples, weights, notes, opened, (given,))


def _parents(kind: AuxiliaryKind, text: str, base: Checkpoint) -> tuple[Checkpoint, ...]:
    """The checkpoints of a list separated by commas; an adapter among them is merged into the base."""
    from ckptaudit.checkpoints import merge_adapter, open_checkpoint
    from ckptaudit.pairing import pair_checkpoints

    paths = [text] if text and Path(text).exists() else [path for path in text.split(",") if path]
    if not paths:
        raise CheckpointError(f"{parameter(kind.name)}: names no checkpoint; give {kind.metavar}.")
    places = [Path(path).resolve() for path in paths]
    twice = next((p for p, place in zip(paths, places, strict=True) if places.count(place) > 1), None)
    if twice is not None:
        raise CheckpointError(f"{parameter(kind.name)} {printable(twice)}: given twice; name each parent once.")
    parents = tuple(merge_adapter(base, open_checkpoint(path)) for path in paths)
    for parent in parents:
        try:
            pair = pair_checkpoints(base, parent)
        except PairingError:
            raise PairingError(_named_unlike(kind, base, parent)) from None
        _refuse_misfits(kind, pair.unaligned, parent.path)
    return parents


def _samples(kind: AuxiliaryKind, opened: Checkpoint) -> int:
    counts = {handle.shape[0] if handle.shape else 0 for handle in opened.tensors.values()}
    if len(counts) != 1 or 0 in counts:
        raise CheckpointError(
            f"{parameter(kind.name)} {printable(opened.path)}: every tensor must be a stack [samples, *shape] of "
            f"the same number of samples, found {sorted(counts)[:5]}; write it with `ckptaudit collect gradients`."
        )
    return counts.pop()


def _without_samples(opened: Checkpoint) -> Checkpoint:
    """The stacks under the shape of one sample, so that they pair with weights.

    What pairing does to a tensor from then on (turning it, taking a fused part) works on its last axes and so
    on every sample alike; what would cut its first axis is refused by `_refuse_misfits`.
    """
    handles = {name: replace(handle, shape=handle.shape[1:]) for name, handle in opened.tensors.items()}
    return replace(opened, tensors=handles)


def _refuse_misfits(kind: AuxiliaryKind, unaligned: Sequence[Finding], path: str) -> None:
    # An adapter may bring embeddings of more tokens in full; no update of it is measured there.
    may_resize = kind.name in ("aligned", "reference", "adapter")
    fatal = ("shapes differ",) if may_resize else ("shapes differ", "rows beyond the common vocabulary")
    misfits = [u for u in unaligned if u.fault in fatal]
    if misfits:
        text = str(misfits[0]).replace("tuned [", "there [")
        raise PairingError(f"{parameter(kind.name)} {printable(path)}: {text}; make it from this base model.")


def _notes(kind: AuxiliaryKind, path: str, unaligned: Sequence[Finding]) -> Iterable[str]:
    for fault, words in (("only in base", "without"), ("only in tuned", "with unknown")):
        names = [printable(u.tensor) for u in unaligned if u.fault == fault]
        if names:
            more = ", ..." if len(names) > 3 else ""
            shown = f"{', '.join(names[:3])}{more}"
            yield f"{parameter(kind.name)} {printable(path)}: {words} {len(names)} weights ({shown})"


def _named_unlike(kind: AuxiliaryKind, base: Checkpoint, opened: Checkpoint) -> str:
    there, here = next(iter(opened.tensors)), next(iter(base.tensors))
    return (
        f"{parameter(kind.name)} {printable(opened.path)}: none of its tensors is named like one of the base's "
        f"(it has {printable(there)[:80]}, the base has {printable(here)[:80]}); make it from this base model."
    )
