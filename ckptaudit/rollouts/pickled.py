"""Arrays out of pickles that trainers write, read as data: no object is made and no code runs.

Tensors of `torch.save`, tensors pickled with their storage inside, NumPy arrays and the attributes of a few
named classes. What a reader's list does not name ends the reading.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import torch

from ckptaudit.checkpoints.storage import DTYPES, StoredTensor, itemsize
from ckptaudit.checkpoints.torch_files.archive import open_archive
from ckptaudit.checkpoints.torch_files.records import ALLOWED, Archive, storage_of
from ckptaudit.checkpoints.torch_files.unpickle import Call, read_pickle
from ckptaudit.errors import CheckpointError, RolloutError, printable

NUMPY = frozenset(
    {f"{module}.multiarray._reconstruct" for module in ("numpy.core", "numpy._core")}
    | {f"{module}.multiarray.scalar" for module in ("numpy.core", "numpy._core")}
    | {"numpy.ndarray", "numpy.dtype"}
)
PYTHON = frozenset(
    {"copyreg._reconstructor", "builtins.object", "copy_reg._reconstructor", "collections.defaultdict"}
)
TORCH = ALLOWED | {"torch.storage._load_from_bytes"}
MAX_DEPTH = 32
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_NUMBERS = frozenset("biuf")


def archive_contents(path: Path) -> Any:
    """What `torch.save` wrote to a file as plain values and arrays. Raises RolloutError."""
    with _as_rollouts(path):
        archive = open_archive(path)
        return _plain(archive.contents, archive, 0)


def pickle_contents(data: io.BytesIO | Any, path: Path, classes: Collection[str]) -> Any:
    """What a plain pickle holds; an object of one of the `classes` becomes its dictionary of attributes."""
    with _as_rollouts(path):
        return _plain(read_pickle(data, path, TORCH | NUMPY | PYTHON | frozenset(classes)), None, 0)


def saved_bytes(data: bytes, path: Path) -> Any:
    """What `torch.save` wrote into bytes that stood inside another file."""
    with _as_rollouts(path), _in_a_file(data) as archive:
        return _plain(archive.contents, archive, 0)


@contextmanager
def _as_rollouts(path: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise RolloutError(error.sentence) from error
    except (TypeError, ValueError, IndexError, KeyError, AttributeError, struct.error, RecursionError) as error:
        raise RolloutError(
            f"{printable(path)}: its pickle is not as the trainer writes it ({printable(str(error)[:120])})."
        ) from error


@contextmanager
def _in_a_file(data: bytes) -> Iterator[Archive]:
    with NamedTemporaryFile(prefix="ckptaudit-", suffix=".pt") as file:
        file.write(data)
        file.flush()
        yield open_archive(Path(file.name))


def _plain(value: Any, archive: Archive | None, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError("values nested too deeply")
    if isinstance(value, dict):
        return {key: _plain(item, archive, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if all(isinstance(item, int | float | str | None) for item in value):
            return value
        return [_plain(item, archive, depth + 1) for item in value]
    return _object(value, archive, depth) if isinstance(value, Call) else value


def _object(call: Call, archive: Archive | None, depth: int) -> Any:
    if call.name.startswith(("torch._utils._rebuild", "torch._tensor._rebuild")):
        return _tensor(call, archive)
    if call.name.endswith("multiarray._reconstruct"):
        return _array(call.state)
    if call.name.endswith("multiarray.scalar"):
        return _array((1, (1,), call.args[0], False, call.args[1]))[0].item()
    if call.name == "collections.defaultdict":
        return _plain(call.items, archive, depth + 1)
    state = call.state[1] if isinstance(call.state, tuple) and len(call.state) == 2 else call.state
    attributes = {**(state if isinstance(state, dict) else {}), **call.items}
    return _plain(attributes, archive, depth + 1)


def _tensor(call: Call, archive: Archive | None) -> np.ndarray:
    """A tensor's values as float64 or int64."""
    if archive is None:
        return _tensor_with_its_storage(call)
    stored = archive.tensor("value", call)
    if not isinstance(stored, StoredTensor):
        raise ValueError("a tensor of another kind")
    return _widened(stored.load())


def _widened(tensor: torch.Tensor) -> np.ndarray:
    kind = torch.float64 if tensor.is_floating_point() else torch.int64
    return np.asarray(tensor.detach().to(kind).numpy())


def _tensor_with_its_storage(call: Call) -> np.ndarray:
    """A tensor that plain pickle wrote: its storage stands in bytes of its own, as `torch.save` makes them."""
    while call.name.endswith(("_rebuild_parameter", "_rebuild_parameter_with_state")):
        call = call.args[0]
    storage, offset, shape, stride = call.args[:4]
    if not isinstance(storage, Call) or storage.name != "torch.storage._load_from_bytes":
        raise ValueError("a tensor whose storage is not with it")
    values = _storage(storage.args[0])
    sizes, steps = tuple(map(int, shape)), tuple(map(int, stride))
    span = 1 + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True)) if math.prod(sizes) else 0
    if min((offset, *sizes, *steps)) < 0 or offset + span > len(values) or math.prod(sizes) > len(values):
        raise ValueError("a tensor that claims more values than its storage holds")
    return _widened(values.as_strided(sizes, steps, offset))


def _storage(data: bytes) -> torch.Tensor:
    """All values of the one storage that `torch.save` wrote in its older layout, which pickled tensors carry."""
    stream, path = io.BytesIO(data), Path("a storage within the pickle")
    magic, _, _ = (read_pickle(stream, path, ()) for _ in range(3))
    contents = read_pickle(stream, path, ALLOWED)
    keys = read_pickle(stream, path, ())
    key, kind = storage_of(contents)
    (count,) = struct.unpack("<q", stream.read(8))
    raw = data[stream.tell() :]
    if magic != LEGACY_MAGIC or keys != [key] or count < 0 or count * itemsize(kind) != len(raw):
        raise ValueError("a storage of another layout")
    return torch.frombuffer(bytearray(raw), dtype=DTYPES[kind]) if count else torch.empty(0, dtype=DTYPES[kind])


def _array(state: Any) -> np.ndarray:
    """A NumPy array of numbers from its pickled state; objects inside arrays are refused."""
    _, shape, dtype, fortran, data = state
    code = dtype.args[0] if isinstance(dtype, Call) and dtype.name == "numpy.dtype" else None
    kind = np.dtype(code) if isinstance(code, str) and len(code) <= 4 else None
    if kind is not None and kind.kind == "O" and isinstance(data, list):
        return np.array([_plain(item, None, 1) for item in data], dtype=object)
    if kind is None or kind.kind not in _NUMBERS or not isinstance(data, bytes):
        raise ValueError("an array that does not hold numbers")
    big = isinstance(dtype.state, tuple) and dtype.state[1] == ">"
    values = np.frombuffer(data, dtype=kind.newbyteorder(">") if big else kind)
    return values.reshape(shape, order="F" if fortran else "C")
