"""Reader for PEFT adapters, and their merge into the weights that they were trained on.

The merged numbers are those of peft's own `merge_and_unload` on the base in its stored dtype: factors in
float32, one product, one rounding into the weight's dtype. That is what gets deployed; an update too small
for bfloat16 is lost there as it is in the merged model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from ckptaudit.checkpoints.documents import clipped, read_document
from ckptaudit.checkpoints.handle import Checkpoint, LowRankUpdate, TensorHandle
from ckptaudit.errors import CheckpointError, printable

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "adapter_config.json"
MERGE_FIRST = "merge it with peft's merge_and_unload and audit the result"

# Settings that change what the factors mean. Each is absent, null, false or empty in a plain adapter.
_VARIANTS = (
    "alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "megatron_config",
    "monteclora_config", "target_parameters", "trainable_token_indices", "use_bdlora", "use_qalora",
    "velora_config",
)  # fmt: skip
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva", "pissa")
_FACTOR = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(?P<kind>\.weight|\.bias)?"
)
_WRAPPERS = re.compile(r"\.(base_layer|original_module|modules_to_save)(?=\.|$)")
# Patterns come from the file. Only such as cannot backtrack without end are matched.
_TAME = re.compile(r"(?:[\w\-/|^$]|\\?\.|\\d[+*]?|\.[+*])+")


class _Config(msgspec.Struct):
    peft_type: str
    r: int = 8
    lora_alpha: float = 8
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    init_lora_weights: bool | str | None = True
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    base_model_name_or_path: str | None = None


@dataclass(frozen=True, slots=True)
class Factors:
    """The parts of one module's low-rank update, and the number that scales their product."""

    down: TensorHandle
    up: TensorHandle
    scale: float
    magnitude: TensorHandle | None = None
    bias: TensorHandle | None = None
    embedding: bool = False


@dataclass(frozen=True, slots=True)
class Adapter:
    """What an adapter changes: factors by module, and whole tensors that replace the base's."""

    path: str
    factors: Mapping[str, Factors]
    replaced: Mapping[str, TensorHandle]
    fan_in_fan_out: bool = False
    pissa: bool = False
    approximate: bool = False
    """Whether PiSSA took its directions from a randomised decomposition, which no one can repeat."""
    base: str | None = None


def open_adapter(folder: Path, tensors: dict[str, TensorHandle]) -> Adapter:
    """The adapter that a folder's configuration and tensors describe. Raises CheckpointError."""
    path = folder / CONFIG
    config = _checked_config(path)
    parts: dict[str, dict[str, TensorHandle]] = {}
    replaced: dict[str, TensorHandle] = {}
    for name, handle in tensors.items():
        _sort(path, _base_name(name), handle, parts, replaced)
    factors = {module: _factors(path, config, module, found) for module, found in parts.items()}
    return Adapter(
        path=str(folder),
        factors=MappingProxyType(factors),
        replaced=MappingProxyType(replaced),
        fan_in_fan_out=config.fan_in_fan_out,
        pissa=config.init_lora_weights == "pissa",
        approximate=_is_approximate(config),
        base=config.base_model_name_or_path,
    )


def merge_adapter(base: Checkpoint, tuned: Checkpoint, initial: Checkpoint | None = None) -> Checkpoint:
    """The tuned side as full weights: an adapter merged into `base`, tensor by tensor as they are read.

    A checkpoint that is no adapter is returned as it is, so callers need not ask. `initial` is the adapter
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
    tensors = dict(base.tensors)
    for name, handle in adapter.replaced.items():
        target = _find(tensors, name) or name
        tensors[target] = _cast(replace(handle, name=target), tensors.get(target))
    start = _start(adapter, initial)
    for module, factors in adapter.factors.items():
        _merge_module(tensors, adapter, module, factors, start.get(module))
    return Checkpoint(
        path=tuned.path,
        format=tuned.format,
        tensors=dict(sorted(tensors.items())),
        config={**base.config, **tuned.config},
    )


def _checked_config(path: Path) -> _Config:
    raw = read_document(path, dict[str, object])
    kind = raw.get("peft_type")
    odd = [name for name in _VARIANTS if raw.get(name)]
    if kind != "LORA" or odd:
        what = f"a {clipped(kind)} adapter" if kind != "LORA" else f"a LoRA adapter with {odd[0]}"
        raise CheckpointError(f"{printable(path)}: {what}, which is not read; {MERGE_FIRST}.")
    try:
        config = msgspec.convert(raw, _Config)
    except msgspec.ValidationError as error:
        raise CheckpointError(
            f"{printable(path)}: not a LoRA configuration ({clipped(error)}); save it again."
        ) from error
    if config.init_lora_weights not in _PLAIN_STARTS and not _is_approximate(config):
        raise CheckpointError(
            f"{printable(path)}: an adapter begun with "
            f"init_lora_weights={clipped(config.init_lora_weights)!r} changes the "
            "base in a way that cannot be repeated; convert it to plain LoRA with save_pretrained("
            "path_initial_model_for_weight_conversion=...), or " + MERGE_FIRST + "."
        )
    return config


def _is_approximate(config: _Config) -> bool:
    return bool(re.fullmatch(r"pissa_niter_\d{1,4}", str(config.init_lora_weights)))


def _start(adapter: Adapter, initial: Checkpoint | None) -> Mapping[str, Factors]:
    """What a randomised PiSSA took out of the base, module by module; empty where nothing has to be known."""
    if not adapter.approximate:
        return {}
    if initial is None or initial.adapter is None:
        raise CheckpointError(
            f"{printable(adapter.path)}: an adapter begun by a randomised PiSSA changes the base in a way that "
            "cannot be repeated; give the adapter as it was before training with --audit-adapter-init PATH, or "
            "convert it to plain LoRA with save_pretrained(path_initial_model_for_weight_conversion=...)."
        )
    start = initial.adapter.factors
    for module, own in adapter.factors.items():
        if module not in start or update_shape(start[module]) != update_shape(own):
            raise CheckpointError(
                f"--audit-adapter-init {printable(initial.path)}: nothing there that fits {clipped(module)}; pass "
                "the adapter that this training started from."
            )
    return start


def _base_name(name: str) -> str:
    return _WRAPPERS.sub("", name.removeprefix("base_model.model.")).replace(".default.", ".")


def _sort(
    path: Path,
    name: str,
    handle: TensorHandle,
    parts: dict[str, dict[str, TensorHandle]],
    replaced: dict[str, TensorHandle],
) -> None:
    match = _FACTOR.fullmatch(name.removesuffix(".default"))
    where, key = (replaced, name) if match is None else (parts.setdefault(match["module"], {}), _part(match))
    if match is None and ("lora_" in name or "token_adapter" in name):
        raise CheckpointError(f"{printable(path)}: tensor {clipped(name)} is of no known kind; {MERGE_FIRST}.")
    if key in where:
        raise CheckpointError(
            f"{printable(path)}: two tensors of the adapter stand for {clipped(name)}; {MERGE_FIRST}."
        )
    where[key] = handle


def _part(match: re.Match[str]) -> str:
    return match["part"] + (".bias" if match["kind"] == ".bias" else "")


def _factors(path: Path, config: _Config, module: str, found: dict[str, TensorHandle]) -> Factors:
    embedding = "lora_embedding_A" in found
    infix = "lora_embedding_" if embedding else "lora_"
    down, up = found.get(infix + "A"), found.get(infix + "B")
    if down is None or up is None or len(down.shape) < 2 or len(up.shape) < 2 or up.shape[1] != down.shape[0]:
        raise CheckpointError(
            f"{printable(path)}: the factors of {clipped(module)} are missing or do not fit; save the "
            "adapter again."
        )
    magnitude = found.get("lora_magnitude_vector")
    if config.use_dora != (magnitude is not None):
        raise CheckpointError(
            f"{printable(path)}: use_dora and the tensors of {clipped(module)} disagree; save the adapter again."
        )
    return Factors(
        down, up, _scale(path, config, module, down.shape[0]), magnitude, found.get("lora_B.bias"), embedding
    )


def _scale(path: Path, config: _Config, module: str, rank: int) -> float:
    alpha = _matching(path, config.alpha_pattern or {}, module, config.lora_alpha)
    declared = _matching(path, config.rank_pattern or {}, module, config.r)
    if rank < 1 or declared != rank:
        raise CheckpointError(
            f"{printable(path)}: {clipped(module)} has rank {rank} where the configuration says {declared}; "
            "save the adapter again."
        )
    return alpha / sqrt(rank) if config.use_rslora else alpha / rank


def _matching(path: Path, patterns: Mapping[str, float], module: str, default: float) -> float:
    """The value of the first pattern that matches the module's name, as peft chooses it."""
    for pattern, value in patterns.items():
        if not _TAME.fullmatch(pattern) or pattern.count("+") + pattern.count("*") > 3 or len(module) > 500:
            raise CheckpointError(
                f"{printable(path)}: the pattern {clipped(pattern)!r} is more than is read; {MERGE_FIRST}."
            )
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _find(tensors: Mapping[str, TensorHandle], name: str) -> str | None:
    """The base's name for an adapter's tensor: the same, or the only one that differs by a prefix."""
    if name in tensors:
        return name
    near = [other for other in tensors if other.endswith(f".{name}") or name.endswith(f".{other}")]
    return near[0] if len(near) == 1 else None


def _merge_module(
    tensors: dict[str, TensorHandle], adapter: Adapter, module: str, factors: Factors, start: Factors | None
) -> None:
    name = _find(tensors, f"{module}.weight")
    if name is None:
        raise CheckpointError(
            f"{printable(adapter.path)}: the adapter changes {clipped(module)}, which the base does not "
            "hold; "
            "pass the base that it was trained on" + (f" ({clipped(adapter.base)})." if adapter.base else ".")
        )
    tensors[name] = _merged(tensors[name], adapter, factors, start)
    if factors.bias is not None:
        bias = name.removesuffix("weight") + "bias"
        if bias not in tensors:
            raise CheckpointError(
                f"{printable(adapter.path)}: {clipped(module)} has no bias to change; {MERGE_FIRST}."
            )
        tensors[bias] = _shifted(tensors[bias], factors.bias, factors.scale)


def _merged(weight: TensorHandle, adapter: Adapter, factors: Factors, start: Factors | None) -> TensorHandle:
    from ckptaudit.checkpoints import lora

    turned = _is_turned(weight, adapter, factors)
    pissa = adapter.pissa and not factors.embedding
    taken_out = None if factors.embedding else start
    merge = lora.Merge(weight, factors, turned=turned, pissa=pissa, start=taken_out)
    simple = factors.magnitude is None and len(weight.shape) == 2
    product = LowRankUpdate(factors.up, factors.down, factors.scale, turned) if simple else None
    low_rank = None if pissa or taken_out is not None else product
    return replace(weight, load=merge.load, low_rank=low_rank, product=product, file=factors.up.file)


def _is_turned(weight: TensorHandle, adapter: Adapter, factors: Factors) -> bool:
    """Whether the weight is stored as the transpose of the factors' product; shapes decide where they can."""
    shape = update_shape(factors)
    fits = [
        turned for turned in (False, True) if (shape[::-1] if turned and len(shape) == 2 else shape) == weight.shape
    ]
    if not fits:
        raise CheckpointError(
            f"{printable(adapter.path)}: the update of {clipped(weight.name)} has shape {list(shape)}, "
            "the base "
            f"{list(weight.shape)}; pass the base that the adapter was trained on."
        )
    stated = factors.embedding or (adapter.fan_in_fan_out and len(shape) == 2)
    return stated if stated in fits else fits[0]


def update_shape(factors: Factors) -> tuple[int, ...]:
    """The shape of `up @ down`, from the factors' shapes alone."""
    return (factors.up.shape[0], *factors.down.shape[1:])


def _shifted(bias: TensorHandle, shift: TensorHandle, scale: float) -> TensorHandle:
    def load() -> Tensor:
        own = bias.read()
        return (own + shift.read().float() * scale).to(own.dtype)

    return replace(bias, load=load)


def _cast(handle: TensorHandle, like: TensorHandle | None) -> TensorHandle:
    """A replacement in the dtype of what it replaces, as loading it into the model would give."""
    if like is None or like.dtype == handle.dtype:
        return handle

    def load() -> Tensor:
        from ckptaudit.checkpoints.storage import DTYPES

        return handle.read().to(DTYPES[like.dtype])

    return replace(handle, dtype=like.dtype, load=load)
