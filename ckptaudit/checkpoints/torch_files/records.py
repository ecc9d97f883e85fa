"""The records that `torch.save` puts in its pickles for tensors, turned into places in the file.

Plain tensors, parameters, and one rank's shard of a DTensor, as PyTorch 1.0 and later write them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from ckptaudit.checkpoints.json_files import clipped, file_size
from ckptaudit.checkpoints.storage import (
    DTYPES,
    MAX_AXES,
    StoredTensor,
    checked_shape,
    checked_sizes,
    is_size,
    itemsize,
)
from ckptaudit.checkpoints.torch_files.unpickle import Call, External, Symbol
from ckptaudit.errors import CheckpointError, printable
from ckptaudit.foreign_files.places import Place, Stamp

STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
DTENSOR = frozenset(
    {"torch.distributed.tensor.DTensor", "torch.distributed.tensor._api.DTensor"}
    | {"torch.distributed._tensor.api.DTensor", "torch.distributed._tensor.DTensor"}
)
_PLACEMENTS = frozenset(
    f"{module}.{kind}"
    for module in ("torch.distributed.tensor.placement_types", "torch.distributed._tensor.placement_types")
    for kind in ("Shard", "_StridedShard", "Replicate", "Partial", "_Partial")
)
_SPECS = frozenset(
    f"{module}.{kind}"
    for module in (
        "torch.distributed.tensor._dtensor_spec",
        "torch.distributed._tensor._dtensor_spec",
        "torch.distributed._tensor.placement_types",
    )
    for kind in ("DTensorSpec", "TensorMeta", "ShardOrderEntry")
) | {
    "torch.distributed.device_mesh.DeviceMesh",
    "torch.distributed._tensor.device_mesh.DeviceMesh",
    "torch.distributed._mesh_layout._MeshLayout",
    "torch.distributed._mesh_layout._FlatLayout",
}
ALLOWED = frozenset(
    {f"torch.{storage}" for storage in STORAGES}
    | {f"torch.storage.{storage}" for storage in STORAGES}
    | {f"torch.{dtype}" for dtype in DTYPES}
    | {f"torch._utils._rebuild_{kind}" for kind in ("tensor", "tensor_v2", "tensor_v3", "parameter")}
    | {"torch._utils._rebuild_parameter_with_state", "torch._utils._rebuild_wrapper_subclass"}
    | {"torch._tensor._rebuild_from_type_v2", "torch.nn.parameter.Parameter", "torch.Tensor"}
    | {"torch.Size", "torch.device", "torch.serialization._get_layout", "collections.OrderedDict"}
    | {"collections.Counter", "_codecs.encode", "builtins.set", "__builtin__.set", "builtins.complex"}
    | DTENSOR
    | _PLACEMENTS
    | _SPECS
)


SHARED, MAX_SMALL = 64, 2**20
"""How often all of a file may be used by its tensors: layers may share one weight, and a file hold little else."""

WRAPPINGS = 8
"""How many records may stand around a tensor's own: a parameter of a subclass of one has three."""


@dataclass(frozen=True, slots=True)
class ShardedTensor:
    """One rank's part of a DTensor: the whole's shape, the rank's coordinate, how each mesh axis splits."""

    shape: tuple[int, ...]
    coordinate: tuple[int, ...]
    placements: tuple[Call, ...]
    local: StoredTensor


@dataclass(frozen=True, slots=True)
class Archive:
    """The saved object as plain values and `Call`s, and the way from such a `Call` to a tensor."""

    file: Place
    contents: Any
    storages: Callable[[str], tuple[int, int]]  # key -> first byte, number of bytes
    stamp: Stamp

    def tensors(self, state: Mapping[Any, object]) -> dict[str, StoredTensor | ShardedTensor]:
        """The tensors of a state dict by name. Raises CheckpointError if they claim far more than it holds."""
        found = {}
        left = SHARED * file_size(self.file) + MAX_SMALL
        for name, record in state.items():
            is_name = isinstance(name, str)
            tensor = self.tensor(name if is_name else "without a name", record)
            if tensor is None:
                continue
            if not is_name:
                # Not shown: what is no text may be of any length once it is written out.
                raise damaged(self.file, "a tensor stands under a key that is no text, and so has no name")
            stored = tensor.local if isinstance(tensor, ShardedTensor) else tensor
            left -= prod(stored.shape) * itemsize(stored.dtype)
            if left < 0:
                raise damaged(self.file, f"its tensors claim more than {SHARED} times the bytes that it holds")
            found[name] = tensor
        return found

    def tensor(self, name: str, record: object) -> StoredTensor | ShardedTensor | None:
        """The tensor that a record stands for; None if it is something else."""
        try:
            return self._tensor(name, record, WRAPPINGS)
        except (TypeError, ValueError, IndexError, KeyError, AttributeError, RecursionError) as error:
            raise damaged(self.file, f"tensor {clipped(name)} is described wrongly") from error

    def _tensor(self, name: str, record: object, depth: int) -> StoredTensor | ShardedTensor | None:
        if not isinstance(record, Call):
            return None
        if not depth:
            # Many names may share one long chain of records, each of which would be followed for each name.
            raise ValueError("a tensor within a tensor, again and again")
        match record.name:
            case "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2":
                return self._stored(name, *record.args[:4])
            case "torch._utils._rebuild_tensor_v3":
                storage, offset, shape, stride = record.args[:4]
                return self._stored(name, storage, offset, shape, stride, dtype=record.args[6])
            case "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state":
                return self._tensor(name, record.args[0], depth - 1)
            case "torch._tensor._rebuild_from_type_v2":
                return self._subclass(name, depth - 1, *record.args)
        return None

    def _subclass(
        self, name: str, depth: int, rebuild: Symbol, kind: Symbol, args: tuple[Any, ...], state: Any
    ) -> StoredTensor | ShardedTensor | None:
        if kind.name in DTENSOR:
            return self._sharded(name, depth, args, state)
        return self._tensor(name, Call(rebuild.name, args), depth)

    def _sharded(self, name: str, depth: int, args: Any, state: Any) -> ShardedTensor:
        # Attributes of a class with slots come second in a pair, after those of its dictionary.
        attributes = state[1] if isinstance(state, tuple) else state
        local = self._tensor(name, attributes["_local_tensor"], depth)
        spec = attributes["_spec"].state
        mesh = spec["mesh"].state
        if not isinstance(local, StoredTensor):
            raise damaged(self.file, f"tensor {clipped(name)} is a shard of no plain tensor")
        return ShardedTensor(
            shape=checked_shape(self.file, name, args[2]),
            coordinate=checked_sizes(self.file, name, mesh["_coordinate_on_dim"]),
            placements=_placements(spec["placements"]),
            local=local,
        )

    def _stored(
        self, name: str, storage: External, offset: int, shape: Any, stride: Any, dtype: Symbol | None = None
    ) -> StoredTensor:
        key, stored = storage_of(storage)
        kind = stored if dtype is None else dtype.name.removeprefix("torch.")
        sizes, steps = checked_shape(self.file, name, shape), checked_sizes(self.file, name, stride)
        if not is_size(offset):
            raise damaged(self.file, f"tensor {clipped(name)} begins at {clipped(offset)} of its storage")
        first, length = self.storages(key)
        span = _span(sizes, steps)
        start, width = first + offset * itemsize(kind), itemsize(kind)
        # The second condition refuses tensors that repeat few stored values over a huge shape.
        if offset * width + span * width > length or prod(sizes) * width > length:
            raise damaged(self.file, f"tensor {clipped(name)} claims more values than its storage holds")
        stride = None if _contiguous(sizes, steps) else steps
        return StoredTensor(self.file, start, span, kind, sizes, stride, self.stamp)


def _placements(listed: object) -> tuple[Call, ...]:
    if not isinstance(listed, list | tuple) or len(listed) > MAX_AXES:
        raise ValueError("no list of placements")
    return tuple(listed)


def storage_of(record: object) -> tuple[str, str]:
    """Key and dtype of the storage that a persistent id names. Raises ValueError if it names none."""
    match record:
        # Six entries are the older layout, whose last one would be a view into another storage.
        case External(("storage", Symbol(name), str(key), _, _) | ("storage", Symbol(name), str(key), _, _, None)):
            return key, STORAGES[name.rpartition(".")[2]]
    raise ValueError("not a storage")


def _span(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """How many stored values lie between the first and the last that the tensor shows, both included."""
    if prod(shape) == 0:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def _contiguous(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size not in (0, 1) and step != expected:
            return prod(shape) == 0
        expected *= size
    return True


def damaged(path: Place, what: str) -> CheckpointError:
    """The error for a file that contradicts itself."""
    return CheckpointError(f"{printable(path)}: {what}; the file is damaged, so save or download it again.")
