"""Reader for sparse delta files: which weights one changes, and where indices and values of each lie.

Two spellings are read, both a safetensors file. TRL's asynchronous GRPO writes `NAME.idx` and `NAME.val`, with
`format` "sparse_weight_patch" and the encoding of the indices in the header; PULSE writes `NAME.indices` and
`NAME.values`, with the weights' shapes in a delta_metadata.json beside the file. Values are the new ones, not
differences.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from ckptaudit.checkpoints import safetensors_files
from ckptaudit.checkpoints.json_files import clipped, read_document
from ckptaudit.checkpoints.tensors import ChangedEntries, IndexEncoding, SparsePatch, TensorHandle
from ckptaudit.errors import CheckpointError, printable
from ckptaudit.foreign_files.places import Place

ENDINGS = ((".idx", ".val"), (".indices", ".values"))
TRL = "sparse_weight_patch"
METADATA = "delta_metadata.json"
INDICES: Mapping[IndexEncoding, tuple[str, ...]] = {
    "raw": ("int32", "int64"),
    "gap_delta": ("uint16", "uint32"),
}
"""The types in which each encoding stores indices."""


class _Metadata(msgspec.Struct):
    """delta_metadata.json: the shapes that the changed weights have."""

    shapes: dict[str, list[int]] = msgspec.field(default_factory=dict)


def is_patch(path: Place, tensors: Mapping[str, TensorHandle]) -> bool:
    """Whether a safetensors file holds indices and values alone, or some of them and says that it is a delta."""
    endings = _endings(tensors)
    if not endings:
        return False
    nothing_else = any(all(name.endswith(pair) for name in tensors) for pair in endings)
    return nothing_else or _says_so(path)


def _endings(tensors: Mapping[str, TensorHandle]) -> list[tuple[str, str]]:
    return [pair for pair in ENDINGS if any(name.endswith(pair) for name in tensors)]


def _says_so(path: Place) -> bool:
    return safetensors_files.read_metadata(path).get("format") == TRL or (path.parent / METADATA).is_file()


def open_patch(path: Place, tensors: Mapping[str, TensorHandle]) -> SparsePatch:
    """What a delta file says of itself; its headers alone are read. Raises CheckpointError."""
    first, second = _endings(tensors)[0]
    other = next((name for name in tensors if not name.endswith((first, second))), None)
    if other is not None:
        raise _damaged(path, other, "stands among indices and values and is neither")
    stated = safetensors_files.read_metadata(path)
    encoding = _encoding(path, stated, first)
    names = sorted({name.removesuffix(first).removesuffix(second) for name in tensors})
    entries = {name: _entries(path, name, tensors, (first, second), encoding) for name in names}
    _refuse_other_count(path, stated, entries)
    beside = path.parent / METADATA
    shapes = read_document(beside, _Metadata).shapes if first == ".indices" and beside.is_file() else {}
    return SparsePatch(
        path=path,
        entries=MappingProxyType(entries),
        version=_number(stated.get("model_version")),
        covered=_number(stated.get("total_elements")),
        shapes=MappingProxyType({name: tuple(shape) for name, shape in shapes.items()}),
    )


def _encoding(path: Place, stated: Mapping[str, str], ending: str) -> IndexEncoding:
    named = stated.get("encoding", "gap_delta") if ending == ".idx" else "raw"
    if ending == ".idx" and (stated.get("format"), stated.get("version", "1")) != (TRL, "1"):
        what = clipped(f"{stated.get('format')} {stated.get('version', '')}".strip())
        raise CheckpointError(f"{printable(path)}: a sparse delta of format {what}; {TRL} version 1 is read.")
    if named == "raw":
        return "raw"
    if named == "gap_delta":
        return "gap_delta"
    raise CheckpointError(
        f"{printable(path)}: its indices are encoded as {clipped(named)}, which is not read; write the delta with "
        "the encoding gap_delta or raw."
    )


def _entries(
    path: Place, name: str, tensors: Mapping[str, TensorHandle], endings: tuple[str, str], encoding: IndexEncoding
) -> ChangedEntries:
    indices, values = (tensors.get(name + ending) for ending in endings)
    if indices is None or values is None:
        raise _damaged(path, name, "has indices without values, or values without indices")
    if len(indices.shape) != 1 or indices.shape != values.shape:
        raise _damaged(path, name, f"has {list(indices.shape)} indices for {list(values.shape)} values")
    if indices.dtype not in INDICES[encoding] or "float" not in values.dtype:
        raise _damaged(path, name, f"has indices of {indices.dtype} and values of {values.dtype}")
    return ChangedEntries(path, name, indices, values, encoding)


def _refuse_other_count(path: Place, stated: Mapping[str, str], entries: Mapping[str, ChangedEntries]) -> None:
    count = sum(one.count for one in entries.values())
    if _number(stated.get("total_changed_elements")) not in (None, count):
        raise CheckpointError(
            f"{printable(path)}: it holds {count:,} changed entries, and its header says "
            f"{clipped(stated['total_changed_elements'])}; the file is incomplete, so write it again."
        )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() and len(text) < 19 else None


def _damaged(path: Place, name: str, what: str) -> CheckpointError:
    return CheckpointError(f"{printable(path)}: {clipped(name)} {what}; write the delta again.")
