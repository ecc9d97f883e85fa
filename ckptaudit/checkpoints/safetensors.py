"""Reader for safetensors: one file, or shards listed in an index. The library validates the headers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from safetensors import SafetensorError, safe_open

from ckptaudit.checkpoints.handle import TensorHandle
from ckptaudit.errors import CheckpointError, printable

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


class ShardIndex(msgspec.Struct):
    """`model.safetensors.index.json`: which shard holds which tensor."""

    weight_map: dict[str, str]


def read_file(path: Path) -> dict[str, TensorHandle]:
    """Handles of one safetensors file. Raises CheckpointError, naming the file and the mend."""
    opened = _open(path)
    return {name: _handle(path, opened, name) for name in sorted(opened.keys())}


def read_index(index: Path) -> dict[str, TensorHandle]:
    """Handles of a sharded checkpoint; every tensor the index lists must be in the shard it names."""
    weight_map = _weight_map(index)
    found = {shard: read_file(_shard_path(index, shard)) for shard in sorted(set(weight_map.values()))}
    for name, shard in weight_map.items():
        if name not in found[shard]:
            raise CheckpointError(
                f"{index}: tensor {printable(name)} is listed in {printable(shard)}, which does not hold it; "
                "index and shards come from different saves, so save or download the checkpoint again."
            )
    return {name: found[weight_map[name]][name] for name in sorted(weight_map)}


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = msgspec.json.decode(index.read_bytes(), type=ShardIndex).weight_map
    except (OSError, RecursionError, msgspec.DecodeError) as error:
        raise CheckpointError(
            f"{index}: this shard index cannot be read ({printable(error)}); save or download it again."
        ) from error
    if not weight_map:
        raise CheckpointError(f"{index}: the shard index lists no tensor; save or download it again.")
    return weight_map


def _shard_path(index: Path, shard: str) -> Path:
    # A shard is a plain file name beside its index. The name may be a symlink (the hub cache makes
    # such), but the index itself must not be able to point out of its folder.
    if shard != Path(shard).name or shard in ("", ".", "..") or "\\" in shard or "\0" in shard:
        raise CheckpointError(
            f"{index}: shard {printable(shard)!r} lies outside the checkpoint's folder; "
            "an index may only name files beside it."
        )
    path = index.parent / shard
    if not path.is_file():
        raise CheckpointError(
            f"{index}: shard {printable(shard)} is missing from {index.parent}; finish the download or copy it."
        )
    return path


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({printable(error)}); "
            "it is probably cut short or damaged, so save or download it again."
        ) from error


def _handle(path: Path, opened: Any, name: str) -> TensorHandle:
    header = opened.get_slice(name)
    stored = header.get_dtype()
    if stored not in DTYPES:
        raise CheckpointError(
            f"{path}: tensor {printable(name)} is stored as {printable(stored)}, which is not read yet; "
            f"save it as one of {', '.join(DTYPES.values())}."
        )
    return TensorHandle(
        name=name,
        shape=tuple(header.get_shape()),
        dtype=DTYPES[stored],
        file=path,
        load=_loader(path, opened, name),
    )


def _loader(path: Path, opened: Any, name: str) -> Callable[[], Tensor]:
    def load() -> Tensor:
        try:
            tensor: Tensor = opened.get_tensor(name)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise CheckpointError(
                f"{path}: tensor {printable(name)} cannot be read ({printable(error)}); "
                "the file changed or was cut short after it was opened."
            ) from error
        return tensor

    return load
