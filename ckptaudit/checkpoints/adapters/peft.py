"""Reader for PEFT adapters: a folder's configuration and tensors as factors by module."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import sqrt
from types import MappingProxyType

import msgspec

from ckptaudit.checkpoints.adapters.patterns import Patterns, UnreadPatternError, compiled
from ckptaudit.checkpoints.adapters.targets import PREFIX, Targets, TargetSettings
from ckptaudit.checkpoints.json_files import clipped, read_settings
from ckptaudit.checkpoints.tensors import Adapter, Factors, TensorHandle
from ckptaudit.errors import CheckpointError, printable
from ckptaudit.foreign_files.places import Place

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


class _Config(TargetSettings, kw_only=True):
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


def open_adapter(folder: Place, tensors: dict[str, TensorHandle]) -> Adapter:
    """The adapter that a folder's configuration and tensors describe. Raises CheckpointError."""
    path = folder / CONFIG
    config = _checked_config(path)
    parts: dict[str, dict[str, TensorHandle]] = {}
    replaced: dict[str, TensorHandle] = {}
    for name, handle in tensors.items():
        if not name.startswith(PREFIX):
            raise CheckpointError(
                f"{printable(folder)}: the name {clipped(name)} does not begin with {PREFIX[:-1]}, so peft would "
                "not load it; save the adapter again with peft's save_pretrained."
            )
        if _is_copy(name, tensors):
            continue
        _sort(path, _base_name(name), handle, parts, replaced)
    _refuse_left_out(path, config, parts)
    scales = _Scales.of(path, config)
    factors = {module: _factors(scales, module, found) for module, found in parts.items()}
    return Adapter(
        path=str(folder),
        factors=MappingProxyType(factors),
        replaced=MappingProxyType(replaced),
        fan_in_fan_out=config.fan_in_fan_out,
        pissa=config.init_lora_weights == "pissa",
        approximate=_is_approximate(config),
        base=config.base_model_name_or_path,
        saved=tuple(config.modules_to_save or ()),
    )


def _checked_config(path: Place) -> _Config:
    raw = read_settings(path)
    kind = raw.get("peft_type")
    odd = [name for name in _VARIANTS if raw.get(name)]
    if kind != "LORA" or odd:
        what = f"an adapter of type {clipped(kind)}" if kind != "LORA" else f"a LoRA adapter with {odd[0]}"
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
            f"init_lora_weights='{clipped(config.init_lora_weights)}' changes the "
            "base in a way that cannot be repeated; convert it to plain LoRA with save_pretrained("
            "path_initial_model_for_weight_conversion=...), or " + MERGE_FIRST + "."
        )
    return config


def _refuse_left_out(path: Place, config: _Config, modules: Iterable[str]) -> None:
    targets = Targets.of(config)
    for module in modules:
        setting = targets.left_out_by(module)
        if setting is not None:
            raise CheckpointError(
                f"{printable(path)}: by {setting} the adapter has no {clipped(module)}, so peft would not load the "
                "factors that the file holds for it; save the adapter again."
            )


def _is_approximate(config: _Config) -> bool:
    return bool(re.fullmatch(r"pissa_niter_\d{1,4}", str(config.init_lora_weights)))


def _base_name(name: str) -> str:
    return _WRAPPERS.sub("", name.removeprefix(PREFIX)).replace(".default.", ".")


def _is_copy(name: str, tensors: Mapping[str, TensorHandle]) -> bool:
    """Whether peft loads another tensor in the place of this one, as it saves resized embeddings more than once.

    It looks for a module of `modules_to_save` under the module's own name, and forgets the original at the merge.
    """
    words = name.split(".")
    return "original_module" in words or ("modules_to_save" in words and PREFIX + _base_name(name) in tensors)


def _sort(
    path: Place,
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


def _factors(scales: _Scales, module: str, found: dict[str, TensorHandle]) -> Factors:
    path = scales.path
    embedding = "lora_embedding_A" in found
    infix = "lora_embedding_" if embedding else "lora_"
    down, up = found.get(infix + "A"), found.get(infix + "B")
    if down is None or up is None or not _fit(down, up, embedding=embedding):
        raise CheckpointError(
            f"{printable(path)}: the factors of {clipped(module)} are missing or do not fit; save the "
            "adapter again."
        )
    magnitude = found.get("lora_magnitude_vector")
    if scales.config.use_dora != (magnitude is not None):
        raise CheckpointError(
            f"{printable(path)}: use_dora and the tensors of {clipped(module)} disagree; save the adapter again."
        )
    return Factors(down, up, scales.scale(module, down.shape[0]), magnitude, found.get("lora_B.bias"), embedding)


def _fit(down: TensorHandle, up: TensorHandle, *, embedding: bool) -> bool:
    """Whether `up @ down` is a matrix's update, or a kernel's: a one-by-one convolution after one of its size."""
    axes = len(down.shape)
    if axes != len(up.shape) or axes < 2 or (embedding and axes > 2) or up.shape[1] != down.shape[0]:
        return False
    return all(size == 1 for size in up.shape[2:]) and all("float" in part.dtype for part in (down, up))


@dataclass(frozen=True, slots=True)
class _Scales:
    """What the configuration says of ranks and scales, its patterns compiled."""

    path: Place
    config: _Config
    ranks: Patterns
    alphas: Patterns

    @classmethod
    def of(cls, path: Place, config: _Config) -> _Scales:
        try:
            ranks, alphas = compiled(config.rank_pattern or {}), compiled(config.alpha_pattern or {})
        except UnreadPatternError as error:
            raise CheckpointError(
                f"{printable(path)}: the pattern '{clipped(error)}' is more than is read; {MERGE_FIRST}."
            ) from None
        return cls(path, config, ranks, alphas)

    def scale(self, module: str, rank: int) -> float:
        """Alpha over the rank, or over its root. Raises CheckpointError if the configuration has another rank."""
        alpha = self.alphas.first(module, self.config.lora_alpha)
        declared = self.ranks.first(module, self.config.r)
        if rank < 1 or declared != rank:
            raise CheckpointError(
                f"{printable(self.path)}: {clipped(module)} has rank {rank} where the configuration says "
                f"{clipped(declared)}; save the adapter again."
            )
        return alpha / sqrt(rank) if self.config.use_rslora else alpha / rank
