"""The merge of a PEFT adapter into the weights that it was trained on.

The merged numbers are those of peft's own `merge_and_unload` on the base in its stored dtype: factors in
float32, one product, one rounding into the weight's dtype. That is what gets deployed; an update too small
for bfloat16 is lost there as it is in the merged model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from ckptaudit.checkpoints.adapters.model_names import ModelNames
from ckptaudit.checkpoints.adapters.peft import MERGE_FIRST
from ckptaudit.checkpoints.adapters.targets import beginnings
from ckptaudit.checkpoints.json_files import clipped
from ckptaudit.checkpoints.tensors import Adapter, Checkpoint, Factors, LowRankUpdate, TensorHandle
from ckptaudit.errors import CheckpointError, parameter, printable

if TYPE_CHECKING:
    from torch import Tensor

CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
"""Models of transformers whose matrices are those of its `Conv1D`; all other models of its own have `Linear`."""


def merge_adapter(base: Checkpoint, tuned: Checkpoint, initial: Checkpoint | None = None) -> Checkpoint:
    """The tuned side as full weights: an adapter merged into `base`, tensor by tensor as they are read.

    A checkpoint that is no adapter is retransposed as it is, so callers need not ask. `initial` is the adapter
    before training; one begun by a randomised PiSSA cannot be merged without it. Raises CheckpointError if
    that is missing or fits no module, or if the adapter changes a weight that the base does not hold.
    """
    adapter = tuned.adapter
    if base.adapter is not None:
        raise CheckpointError(
            f"{printable(base.path)}: an adapter alone cannot be the base; pass the full weights, "
            "or WEIGHTS+ADAPTER to merge the two."
        )
    if adapter is None:
        return tuned
    merging = _Merging(adapter, dict(base.tensors), ModelNames(base.tensors, base.config), base.config, base.path)
    merging.replace_tensors()
    start = _start(adapter, initial)
    for module, factors in adapter.factors.items():
        merging.merge(module, factors, start.get(module))
    tensors = merging.tensors
    return Checkpoint(
        path=tuned.path,
        format=tuned.format,
        tensors=dict(sorted(tensors.items())),
        config={**base.config, **tuned.config},
        merged_from=(base, tuned),
        place=tuned.place,
    )


def _start(adapter: Adapter, initial: Checkpoint | None) -> Mapping[str, Factors]:
    """What a randomised PiSSA took out of the base, module by module; empty where nothing has to be known."""
    if not adapter.approximate:
        return {}
    if initial is None or initial.adapter is None:
        raise CheckpointError(
            f"{printable(adapter.path)}: an adapter begun by a randomised PiSSA changes the base in a way that "
            f"cannot be repeated; give the adapter as it was before training with "
            f"{parameter('adapter_init')} PATH, or "
            "convert it to plain LoRA with save_pretrained(path_initial_model_for_weight_conversion=...)."
        )
    start = initial.adapter.factors
    for module, own in adapter.factors.items():
        if module not in start or update_shape(start[module]) != update_shape(own):
            raise CheckpointError(
                f"{parameter('adapter_init')} {printable(initial.path)}: nothing there that fits "
                f"{clipped(module)}; pass the adapter that this training started from."
            )
    return start


@dataclass(frozen=True)
class _Merging:
    """The base's tensors while an adapter goes into them; each may be changed once."""

    adapter: Adapter
    tensors: dict[str, TensorHandle]
    names: ModelNames
    config: Mapping[str, object]
    base: str
    changed: set[str] = field(default_factory=set)

    def replace_tensors(self) -> None:
        """Put the adapter's own tensors in the place of the base's."""
        for name, handle in self.adapter.replaced.items():
            target = self.names.find(name) or name
            self._claim(target)
            self.tensors[target] = _cast(replace(handle, name=target), self.tensors.get(target))
        self._refuse_missing()
        # Factors may come on top of a replaced tensor.
        self.changed.clear()

    def _refuse_missing(self) -> None:
        """Raise CheckpointError where peft would look for a module's tensors and the file has none of them."""
        ends = frozenset(filter(None, self.adapter.saved))
        if not ends:
            return
        lengths = {len(end) for end in ends}
        held, wanted = (
            {part: None for name in names for part in beginnings(name)} for names in (self.changed, self.tensors)
        )
        for part in wanted:
            # As in peft, "norm" means "input_layernorm" too.
            if part not in held and any(part[-length:] in ends for length in lengths):
                raise CheckpointError(
                    f"{printable(self.adapter.path)}: modules_to_save means {clipped(part)}, of which the file "
                    "holds nothing, so peft would not load the adapter; save it again."
                )

    def merge(self, module: str, factors: Factors, start: Factors | None) -> None:
        """Put one module's update in. Raises CheckpointError if the base has no weight that it fits."""
        adapter, tensors = self.adapter, self.tensors
        name = self.names.find(f"{module}.weight")
        if name is None:
            raise self._stranger(module)
        self._claim(name)
        tensors[name] = _merged(tensors[name], adapter, factors, start, square=self._turns_squares)
        if factors.bias is not None:
            bias = name.removesuffix("weight") + "bias"
            if bias not in tensors:
                raise CheckpointError(
                    f"{printable(adapter.path)}: {clipped(module)} has no bias to change; {MERGE_FIRST}."
                )
            self._claim(bias)
            _check_bias(adapter, tensors[bias], factors.bias)
            tensors[bias] = _shifted(tensors[bias], factors.bias, factors.scale)

    def _stranger(self, module: str) -> CheckpointError:
        own = self.adapter.base
        passed = "" if self.base == own else "pass the base that it was trained on"
        said = f"{passed} ({clipped(own)}), or " if passed and own else f"{passed}, or " if passed else ""
        return CheckpointError(
            f"{printable(self.adapter.path)}: the adapter changes {clipped(module)}, which the base does not hold "
            f"under a name that is known; {said}{MERGE_FIRST}."
        )

    @cached_property
    def _turns_squares(self) -> bool:
        """Whether square weights are stored `[in, out]`: peft turns `Conv1D`'s, whatever the setting says."""
        kind = self.config.get("model_type")
        if kind in CONV1D_MODELS or not self.adapter.fan_in_fan_out:
            return kind in CONV1D_MODELS
        found = {
            turned for module, factors in self.adapter.factors.items() for turned in self._turned(module, factors)
        }
        if len(found) == 1:
            return found == {True}
        inner = [part.get("model_type") for part in self.config.values() if isinstance(part, dict)]
        is_known = isinstance(kind, str) and "auto_map" not in self.config
        return not is_known or any(part in CONV1D_MODELS for part in inner)

    def _turned(self, module: str, factors: Factors) -> Iterator[bool]:
        """Whether a matrix is stored turned, where its shape says so."""
        name, shape = self.names.find(f"{module}.weight"), update_shape(factors)
        if name is not None and not factors.embedding and len(shape) == 2 and shape[0] != shape[1]:
            yield self.tensors[name].shape == shape[::-1]

    def _claim(self, name: str) -> None:
        if name in self.changed:
            raise CheckpointError(
                f"{printable(self.adapter.path)}: the adapter changes {clipped(name)} twice; {MERGE_FIRST}."
            )
        self.changed.add(name)


def _check_weight(adapter: Adapter, weight: TensorHandle, *, plain: bool) -> None:
    if "float" not in weight.dtype:
        raise CheckpointError(
            f"{printable(weight.file)}: {clipped(weight.name)} is stored as {weight.dtype}; an adapter merges into "
            "floating-point weights, so pass the unquantised base."
        )
    if not plain and len(weight.shape) != 2:
        raise CheckpointError(
            f"{printable(adapter.path)}: PiSSA begins {clipped(weight.name)}, which is no matrix; {MERGE_FIRST}."
        )


def _check_bias(adapter: Adapter, bias: TensorHandle, shift: TensorHandle) -> None:
    if shift.shape != bias.shape or "float" not in shift.dtype or "float" not in bias.dtype:
        raise _misfit(adapter, "bias", shift, bias.name, bias.shape)


def _check_magnitude(adapter: Adapter, weight: TensorHandle, factors: Factors) -> None:
    magnitude, rows = factors.magnitude, factors.up.shape[0]
    # Of a convolution it has the kernel's axes, all but one of size 1.
    if magnitude is None or ("float" in magnitude.dtype and magnitude.parameters == rows == max(magnitude.shape)):
        return
    raise _misfit(adapter, "DoRA magnitude", magnitude, weight.name, (rows,))


def _misfit(
    adapter: Adapter, part: str, found: TensorHandle, name: str, wanted: tuple[int, ...]
) -> CheckpointError:
    return CheckpointError(
        f"{printable(adapter.path)}: the {part} of {clipped(name)} is {found.dtype} of shape {list(found.shape)}, "
        f"where floating-point numbers of shape {list(wanted)} are needed; save the adapter again."
    )


def _merged(
    weight: TensorHandle, adapter: Adapter, factors: Factors, start: Factors | None, *, square: bool
) -> TensorHandle:
    from ckptaudit.checkpoints.adapters.merged_weight import MergedWeight

    transposed = _is_transposed(weight, adapter, factors, square=square)
    _check_magnitude(adapter, weight, factors)
    pissa = adapter.pissa and not factors.embedding
    taken_out = None if factors.embedding else start
    _check_weight(adapter, weight, plain=not pissa and taken_out is None)
    merge = MergedWeight(weight, factors, transposed=transposed, pissa=pissa, start=taken_out)
    simple = factors.magnitude is None and len(weight.shape) == 2
    product = LowRankUpdate(factors.up, factors.down, factors.scale, transposed) if simple else None
    low_rank = None if pissa or taken_out is not None else product
    return replace(weight, load=merge.load, low_rank=low_rank, product=product, file=factors.up.file)


def _is_transposed(weight: TensorHandle, adapter: Adapter, factors: Factors, *, square: bool) -> bool:
    """Whether the weight is stored as the transpose of the factors' product; shapes decide where they can."""
    shape = update_shape(factors)
    fits = [
        transposed
        for transposed in (False, True)
        if (shape[::-1] if transposed and len(shape) == 2 else shape) == weight.shape
    ]
    if not fits:
        raise CheckpointError(
            f"{printable(adapter.path)}: the update of {clipped(weight.name)} has shape {list(shape)}, "
            "the base "
            f"{list(weight.shape)}; pass the base that the adapter was trained on."
        )
    stated = factors.embedding or (square and len(shape) == 2)
    return stated if stated in fits else fits[0]


def update_shape(factors: Factors) -> tuple[int, ...]:
    """The shape of `up @ down`, from the factors' shapes alone."""
    return (factors.up.shape[0], *factors.down.shape[1:])


def _shifted(bias: TensorHandle, shift: TensorHandle, scale: float) -> TensorHandle:
    def load() -> Tensor:
        own = bias.read()
        return (own + shift.read().float() * scale).to(own.dtype)

    return replace(bias, load=load, file=shift.file)


def _cast(handle: TensorHandle, like: TensorHandle | None) -> TensorHandle:
    """A replacement in the dtype of what it replaces, as loading it into the model would give."""
    if like is None or like.dtype == handle.dtype or not ("float" in like.dtype and "float" in handle.dtype):
        return handle

    def load() -> Tensor:
        from ckptaudit.checkpoints.storage import DTYPES

        return handle.read().to(DTYPES[like.dtype])

    return replace(handle, dtype=like.dtype, load=load)
