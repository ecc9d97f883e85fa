"""Reader for torch.distributed.checkpoint folders: `.metadata` and `*.distcp`, with no process group.

`.metadata` is a pickle and is read as data (see `pickles`). Each chunk of a tensor is what `torch.save`
wrote, at a byte range of one `.distcp` file; chunks are put together when the tensor is read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptaudit.checkpoints.json_files import clipped, file_size, sibling
from ckptaudit.checkpoints.storage import DTYPES, StoredTensor, checked_shape, checked_sizes, is_size, itemsize
from ckptaudit.checkpoints.tensors import TensorHandle
from ckptaudit.checkpoints.torch_files.archive import open_archive
from ckptaudit.checkpoints.torch_files.unpickle import Call, Symbol, read_pickle
from ckptaudit.errors import CheckpointError, printable
from ckptaudit.foreign_files import open_regular, stamp_of
from ckptaudit.foreign_files.places import Place, Stamp

if TYPE_CHECKING:
    from torch import Tensor

METADATA = ".metadata"
MAX_PARTS = 64
"""Of a tensor's nested name."""
WRAPPERS = frozenset({"model", "state_dict", "module", "app", "actor"})
NOT_WEIGHTS = re.compile(
    r"(optim|optimizers?|optimizer_states?|lr_scheduler|scheduler|dataloader|train_state|rng)([._]|$)"
)
ALLOWED = frozenset(
    {
        f"torch.distributed.checkpoint.metadata.{kind}"
        for kind in (
            "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata",
            "TensorProperties", "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING",
        )
    }
    | {f"torch.distributed.checkpoint.filesystem.{kind}" for kind in ("_StorageInfo", "StorageMeta")}
    | {f"torch.{dtype}" for dtype in DTYPES}
    | {"torch.Size", "torch.device", "torch.serialization._get_layout"}
    | {"collections.OrderedDict", "builtins.set"}
    | {f"{m}.{kind}" for m in ("pathlib", "pathlib._local") for kind in ("PosixPath", "WindowsPath")}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Chunk:
    """A block of a tensor: its place in the whole, and the byte range that `torch.save` filled with it."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: Place
    start: int
    length: int
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class Blocks:
    """A tensor as its chunks, which cover it without overlap."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[Chunk, ...]

    def load(self) -> Tensor:
        """The whole tensor on the CPU."""
        import torch

        if len(self.chunks) == 1:
            return self._block(self.chunks[0]).load()
        whole = torch.zeros(self.shape, dtype=DTYPES[self.dtype])
        filled = torch.zeros(self.shape, dtype=torch.bool)
        for chunk in self.chunks:
            where = tuple(slice(o, o + s) for o, s in zip(chunk.offsets, chunk.sizes, strict=True))
            whole[where] = self._block(chunk).load()
            filled[where] = True
        # They have as many entries as the tensor: where two overlap, a hole is left elsewhere.
        if not filled.all():
            raise _damaged(self.chunks[0].file, f"the chunks of {clipped(self.name)} overlap and leave holes")
        return whole

    def _block(self, chunk: Chunk) -> StoredTensor:
        archive = open_archive(chunk.file, chunk.start, chunk.length)
        if archive.stamp != chunk.stamp:
            raise _damaged(chunk.file, "the file changed while it was audited")
        stored = archive.tensor(self.name, archive.contents)
        if not isinstance(stored, StoredTensor) or stored.shape != chunk.sizes or stored.dtype != self.dtype:
            raise _damaged(
                chunk.file, f"the bytes at {chunk.start:,} are not the part of {clipped(self.name)} promised"
            )
        return stored


def read_folder(folder: Place) -> dict[str, TensorHandle]:
    """Handles of the model's tensors; optimizer state is left out. Raises CheckpointError."""
    path = folder / METADATA
    file_size(path)
    with open_regular(path) as file:
        metadata = read_pickle(file, path, ALLOWED)
    try:
        blocks = _by_name(path, metadata.state)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise _damaged(path, "it does not describe tensors the way torch.distributed.checkpoint does") from error
    _refuse_shared_bytes(path, blocks.values())
    return {name: _handle(name, block) for name, block in sorted(blocks.items())}


@dataclass(frozen=True, slots=True)
class _Catalog:
    """Where the chunks lie, by tensor and offsets; and the size of each file, asked for once."""

    path: Place
    places: dict[tuple[str, str], dict[str, Any]]
    files: dict[str, tuple[Place, Stamp]] = field(default_factory=dict)

    def file(self, name: str) -> tuple[Place, Stamp]:
        if not isinstance(name, str):
            raise TypeError("a file's name is no text")
        if name not in self.files:
            file = sibling(self.path, name)
            self.files[name] = (file, stamp_of(file))
        return self.files[name]


def _handle(name: str, blocks: Blocks) -> TensorHandle:
    file = blocks.chunks[0].file
    return TensorHandle(name=name, shape=blocks.shape, dtype=blocks.dtype, file=file, load=blocks.load)


def _by_name(path: Place, metadata: dict[str, Any]) -> dict[str, Blocks]:
    catalog = _Catalog(
        path, {_place_key(path, index.state): info.state for index, info in metadata["storage_data"].items()}
    )
    _refuse_shared_chunks(path, metadata["state_dict_metadata"], len(catalog.places))
    nesting = metadata.get("planner_data")
    found: dict[str, Blocks] = {}
    for key, facts in metadata["state_dict_metadata"].items():
        name = _weight_name(key, nesting.get(key) if isinstance(nesting, dict) else None)
        if name is None or not facts.name.endswith(".TensorStorageMetadata"):
            continue
        if name in found:
            raise CheckpointError(
                f"{printable(path)}: it holds two models, which both have {clipped(name)}; save the one "
                "to audit alone."
            )
        found[name] = _blocks(catalog, key, facts.state)
    return found


def _refuse_shared_chunks(path: Place, tensors: dict[str, Any], places: int) -> None:
    # One list of chunks may stand under any number of names, and would be gone through for each of them.
    listed = (facts.state for facts in tensors.values() if facts.name.endswith(".TensorStorageMetadata"))
    if sum(len(state["chunks"]) for state in listed) > places:
        raise _damaged(path, "it lists more chunks of tensors than it has places for")


def _place_key(path: Place, index: dict[str, Any]) -> tuple[str, str]:
    name = index["fqn"]
    if not isinstance(name, str):
        raise TypeError("a tensor's name is no text")
    return _place(name, checked_sizes(path, name, index.get("offset") or ()))


def _place(name: str, offsets: tuple[int, ...]) -> tuple[str, str]:
    # As text: the hashes of tuples of numbers can be made to collide, and the file chooses the numbers.
    return name, repr(offsets)


def _weight_name(key: str, nesting: Any) -> str | None:
    """The tensor's name in the model; None for what belongs to the optimizer or the trainer."""
    if not isinstance(key, str):
        raise TypeError("a tensor's name is no text")
    listed = isinstance(nesting, tuple | list) and len(nesting) <= MAX_PARTS
    parts = [part for part in nesting if isinstance(part, str)] if listed else []
    if sum(map(len, parts)) > len(key):
        parts = []
    if len(parts) > 1 and ".".join(parts) == key:
        while len(parts) > 1 and parts[0] in WRAPPERS:
            parts = parts[1:]
    name = ".".join(parts) if parts else key
    return None if NOT_WEIGHTS.match(name) else name


def _blocks(catalog: _Catalog, key: str, facts: dict[str, Any]) -> Blocks:
    path = catalog.path
    shape = checked_shape(path, key, facts["size"])
    dtype = _dtype(path, key, facts["properties"])
    chunks = tuple(_chunk(catalog, key, chunk.state, itemsize(dtype)) for chunk in facts["chunks"])
    inside = all(
        len(c.sizes) == len(shape) and all(o + s <= n for o, s, n in zip(c.offsets, c.sizes, shape, strict=True))
        for c in chunks
    )
    if not chunks or not inside or sum(prod(c.sizes) for c in chunks) != prod(shape):
        raise _damaged(path, f"the chunks of {clipped(key)} do not make up the whole tensor")
    return Blocks(key, shape, dtype, chunks)


def _chunk(catalog: _Catalog, key: str, facts: dict[str, Any], width: int) -> Chunk:
    path, places = catalog.path, catalog.places
    offsets, sizes = checked_sizes(path, key, facts["offsets"]), checked_shape(path, key, facts["sizes"])
    place = places.get(_place(key, offsets)) or places[_place(key, ())]
    if place.get("transform_descriptors"):
        raise CheckpointError(
            f"{printable(path)}: tensor {clipped(key)} is stored compressed, which is not read; save "
            "without extensions."
        )
    file, seen = catalog.file(place["relative_path"])
    size = seen[0]
    start, length = place["offset"], place["length"]
    if not is_size(start) or not is_size(length) or start + length > size:
        raise _damaged(path, f"a chunk of {clipped(key)} lies outside {clipped(file.name)}")
    if prod(sizes) * width > length:
        raise _damaged(path, f"a chunk of {clipped(key)} claims more values than its bytes hold")
    return Chunk(offsets, sizes, file, start, length, seen)


def _dtype(path: Place, key: str, properties: Call) -> str:
    state = properties.state
    symbol = state[0] if isinstance(state, tuple) else state["dtype"]
    dtype = symbol.name.removeprefix("torch.") if isinstance(symbol, Symbol) else ""
    if dtype not in DTYPES:
        raise _damaged(path, f"tensor {clipped(key)} has no known dtype")
    return dtype


def _refuse_shared_bytes(path: Place, tensors: Any) -> None:
    # A small file could otherwise claim any amount of memory by naming the same bytes again and again.
    ranges = sorted((str(c.file), c.start, c.length) for tensor in tensors for c in tensor.chunks)
    for (file, start, length), (other, after, _) in pairwise(ranges):
        if file == other and start + length > after:
            raise _damaged(path, f"two chunks share bytes of {clipped(Path(file).name)}")


def _damaged(path: Place, what: str) -> CheckpointError:
    return CheckpointError(f"{printable(path)}: {what}; save the checkpoint again.")
