"""Shard indexes against the shards that lie beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ckptaudit.artifact.facts import IndexFact
from ckptaudit.artifact.json_documents import mapping_of, read_json, text_of
from ckptaudit.artifact.listing import Entry, entries
from ckptaudit.artifact.places import Places
from ckptaudit.checkpoints import Checkpoint, safetensors_files
from ckptaudit.foreign_files.places import Place

INDEX = re.compile(r".+\.(safetensors|bin)\.index\.json")
SHARD = re.compile(r".+-\d{1,9}-of-\d{1,9}\.(safetensors|bin)")
OWN_NAMES = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin")
"""Files with a check of their own: a second set of weights, an adapter."""


def index_facts(checkpoint: Checkpoint, where: Places) -> tuple[IndexFact, ...]:
    """One fact for each index of the folder, and one for shards without any index; faultless ones are left out."""
    if where.weights is None:
        return ()
    listing = entries(where.weights)
    maps = {name: _weight_map(where.weights / name) for name in _indexes(listing)}
    facts = [_fact(checkpoint, where.weights, name, shards, listing) for name, shards in maps.items()]
    named = {shard for shards in maps.values() for shard in shards.values()}
    facts.append(IndexFact("", unnamed=_strays(checkpoint, listing, named, with_index=bool(maps))))
    return tuple(fact for fact in facts if fact.absent or fact.unnamed or fact.unlisted)


def _indexes(listing: Mapping[str, Entry]) -> list[str]:
    return [name for name, entry in listing.items() if entry.kind == "file" and INDEX.fullmatch(name)]


def _weight_map(index: Place) -> dict[str, str]:
    stated = mapping_of(read_json(index, index.name).value.get("weight_map"))
    return {tensor: text_of(shard) for tensor, shard in stated.items()}


def _fact(
    checkpoint: Checkpoint, folder: Place, name: str, shards: Mapping[str, str], listing: Mapping[str, Entry]
) -> IndexFact:
    wanted = sorted(set(shards.values()))
    absent = tuple(shard for shard in wanted if shard not in listing or listing[shard].kind != "file")
    opened = {handle.file for handle in checkpoint.tensors.values()}
    read = [shard for shard in wanted if folder / shard in opened and shard.endswith(".safetensors")]
    return IndexFact(name, absent=absent, unlisted=_unlisted(folder, read, shards))


def _unlisted(folder: Place, read: list[str], shards: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name, shard)
        for shard in read
        for name in safetensors_files.read_file(folder / shard)
        if shards.get(name) != shard
    )


def _strays(
    checkpoint: Checkpoint, listing: Mapping[str, Entry], named: set[str], *, with_index: bool
) -> tuple[str, ...]:
    """Weight files that nothing names: shards, and any safetensors file, since engines load what they find."""
    opened = {handle.file.name for handle in checkpoint.tensors.values()}
    files = [name for name, entry in listing.items() if entry.kind == "file" and name not in OWN_NAMES]
    stray = [n for n in files if n.endswith(".safetensors") or SHARD.fullmatch(n)]
    return tuple(n for n in stray if n not in named and n not in opened)
