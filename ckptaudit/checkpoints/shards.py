"""Weights in several files, and the index that says which tensor lies in which."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from ckptaudit.checkpoints.json_files import clipped, read_document, sibling
from ckptaudit.checkpoints.tensors import TensorHandle
from ckptaudit.errors import CheckpointError, printable
from ckptaudit.foreign_files.places import Place


class ShardIndex(msgspec.Struct):
    """`*.index.json`: which shard holds which tensor."""

    weight_map: dict[str, str]


def read_shards(index: Place, read_file: Callable[[Place], dict[str, TensorHandle]]) -> dict[str, TensorHandle]:
    """Handles of a sharded checkpoint; every tensor the index lists must be in the shard it names."""
    weight_map = read_document(index, ShardIndex).weight_map
    if not weight_map:
        raise CheckpointError(f"{printable(index)}: the shard index lists no tensor; save or download it again.")
    names = sorted(set(weight_map.values()))
    if not isinstance(index, Path):
        index.parent.open_all(sibling(index, name).name for name in names)
    found = {shard: read_file(sibling(index, shard)) for shard in names}
    for name, shard in weight_map.items():
        if name not in found[shard]:
            raise CheckpointError(
                f"{printable(index)}: tensor {clipped(name)} is listed in {clipped(shard)}, which does "
                "not hold it; "
                "index and shards come from different saves, so save or download the checkpoint again."
            )
    return {name: found[weight_map[name]][name] for name in sorted(weight_map)}
