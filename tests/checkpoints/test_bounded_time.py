"""Opening n bytes takes at most a + b n seconds, whatever they say: each attack at doubling sizes.

Every attack here took time quadratic in its size, or steps out of proportion to it, against some reader that
keeps what the file says in tables of its own numbers, follows shared parts again for each name, or tries every
pattern on every name.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from time import process_time

import pytest
import torch
from safetensors.torch import save_file

from ckptaudit.checkpoints import merge_adapter, open_checkpoint
from ckptaudit.errors import CheckpointError
from tests.checkpoints.attacks import (
    MODULE,
    safetensors,
    save_base,
    sizes,
    state_dict,
    storage,
    tensor,
    text,
    zip_archive,
)

FIXED, PER_BYTE = 0.5, 5e-6
"""a and b, in seconds of one processor's time. An honest header takes under a tenth of b."""

FIELD = 2**61 - 1
"""Python hashes a number as its remainder to this."""


def colliding(i: int) -> int:
    return i * FIELD % 2**63


def long1(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little")


def odd_pickle(steps: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "model.pt").write_bytes(zip_archive(b"\x80\x02" + steps + b"."))

    return write


def keys_that_collide(n: int) -> bytes:
    return b"}(" + b"".join(long1(colliding(i)) + b"N" for i in range(n)) + b"u"


def small_keys_that_collide(n: int) -> bytes:
    return b"}(" + b"".join(b"J" + struct.pack("<i", (i << 16) % 2**31) + b"N" for i in range(n)) + b"u"


def keys_of_numbers_that_collide(n: int) -> bytes:
    return b"}(" + b"".join(long1(colliding(i)) + b"\x85N" for i in range(n)) + b"u"


def memo_keys_that_collide(n: int) -> bytes:
    return b"}" + b"".join(b"p%d\n" % colliding(i + 1) for i in range(n))


def one_list_into_many_dictionaries(n: int) -> bytes:
    pairs = b"(" + b"X\x01\x00\x00\x00aN\x86" * n + b"lq\x000"
    return pairs + b"ccollections\nOrderedDict\nq\x010" + b"h\x01h\x00\x85R0" * n + b"}"


def one_list_into_many_shapes(n: int) -> bytes:
    return b"(" + b"K\x01" * n + b"lq\x000" + b"ctorch\nSize\nq\x010" + b"h\x01h\x00\x85R0" * n + b"}"


def one_long_tuple_as_many_keys(n: int) -> bytes:
    return b"(" + b"K\x01" * n + b"tq\x000}(" + b"h\x00N" * n + b"u"


def one_huge_number_as_many_keys(n: int) -> bytes:
    return b"\x8b" + struct.pack("<i", n) + b"\x01" * n + b"q\x000}(" + b"h\x00N" * n + b"u"


def named(i: int) -> bytes:
    return b"\x8c\x06" + b"%06d" % i


def one_shape_for_many_tensors(n: int) -> bytes:
    shape = b"(" + b"K\x01" * n + b"lq\x000"
    one = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage() + b"K\x00h\x00h\x00\x89}tRq\x010"
    return shape + one + b"}(" + b"".join(named(i) + b"h\x01" for i in range(n)) + b"u"


def one_chain_for_many_tensors(n: int) -> bytes:
    step = b"ctorch._utils\n_rebuild_parameter\n("
    chain = step * 900 + tensor([4], [1]) + b"\x89}tR" * 900 + b"q\x010"
    return chain + b"}(" + b"".join(named(i) + b"h\x01" for i in range(n)) + b"u"


def steps_of_one_byte(n: int) -> bytes:
    return b"]0" * (20 * n) + b"}"


def steps_that_are_kept(n: int) -> bytes:
    return b"]" * (20 * n) + b"}"


PICKLES = [
    keys_that_collide, small_keys_that_collide, keys_of_numbers_that_collide, memo_keys_that_collide,
    one_list_into_many_dictionaries, one_list_into_many_shapes, one_long_tuple_as_many_keys,
    one_huge_number_as_many_keys, one_shape_for_many_tensors, one_chain_for_many_tensors, steps_of_one_byte,
    steps_that_are_kept,
]  # fmt: skip


def one_storage_for_many_tensors(folder: Path, n: int) -> None:
    """Opened quickly; reading all of it would take n times n bytes."""
    steps = b"".join(named(i) + tensor([n], [1]) for i in range(n // 10))
    (folder / "model.pt").write_bytes(zip_archive(state_dict(steps), _0=bytes(4 * n)))


METADATA = b"ctorch.distributed.checkpoint.metadata\n"


def record(kind: bytes, **state: bytes) -> bytes:
    return METADATA + kind + b"\n)\x81}(" + b"".join(text(k) + v for k, v in state.items()) + b"ub"


def place(name: bytes, offset: bytes) -> bytes:
    index = record(b"MetadataIndex", fqn=name, offset=offset, index=b"K\x00")
    info = {"relative_path": text("__0_0.distcp"), "offset": b"K\x00", "length": b"K\x04"}
    return index + record(b"_StorageInfo", **info).replace(METADATA, b"ctorch.distributed.checkpoint.filesystem\n")


def write_metadata(folder: Path, tensors: bytes, places: bytes, nesting: bytes = b"}") -> None:
    whole = record(b"Metadata", state_dict_metadata=b"}(" + tensors + b"u", planner_data=nesting,
                   storage_data=b"}(" + places + b"u")  # fmt: skip
    (folder / ".metadata").write_bytes(b"\x80\x02" + whole + b".")
    (folder / "__0_0.distcp").write_bytes(bytes(16))


def stored(size: bytes, chunks: bytes) -> bytes:
    properties = record(b"TensorProperties", dtype=b"ctorch\nfloat32\n")
    return record(b"TensorStorageMetadata", size=size, properties=properties, chunks=chunks)


def one_list_of_chunks_for_many_tensors(folder: Path, n: int) -> None:
    n //= 10
    chunk = record(b"ChunkStorageMetadata", offsets=sizes([0]), sizes=sizes([1]))
    first = text("a") + stored(sizes([n]), b"](" + chunk * n + b"eq\x01")
    tensors = first + b"".join(named(i) + stored(sizes([n]), b"h\x01") for i in range(n))
    write_metadata(folder, tensors, place(text("a"), b")"))


def places_that_collide(folder: Path, n: int) -> None:
    """Offsets of twenty axes, each 0 or what Python hashes like 0."""
    n //= 10
    offsets = [sizes([FIELD * (i >> axis & 1) for axis in range(20)]) for i in range(n)]
    write_metadata(folder, b"", b"".join(place(text("a"), offset) for offset in offsets))


def one_nesting_for_many_tensors(folder: Path, n: int) -> None:
    n //= 4
    tensors = b"".join(named(i) + METADATA + b"BytesStorageMetadata\n)\x81" for i in range(n))
    parts = b"(" + text("a") * n + b"tq\x010"
    nesting = b"}(" + b"".join(named(i) + b"h\x01" for i in range(n)) + b"u"
    write_metadata(folder, tensors, b"", parts.removesuffix(b"0") + b"0" + nesting)


def many_names_in_a_header(folder: Path, n: int) -> None:
    header = {
        f"model.layers.{i}.w": {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i in range(n)
    }
    (folder / "model.safetensors").write_bytes(safetensors(header, bytes(4 * n)))


def many_names_in_an_index(folder: Path, n: int) -> None:
    many_names_in_a_header(folder, n)
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    index = {"weight_map": {f"model.layers.{i}.w": "a.safetensors" for i in range(n)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


FOLDERS = [
    one_storage_for_many_tensors, one_list_of_chunks_for_many_tensors, places_that_collide,
    one_nesting_for_many_tensors, many_names_in_a_header, many_names_in_an_index,
]  # fmt: skip


def bounded(open_it: Callable[[], object], size: int) -> None:
    begin = process_time()
    try:
        open_it()
    except CheckpointError as error:
        assert str(error).isprintable()  # noqa: PT017  either ending will do
    taken = process_time() - begin
    assert taken <= FIXED + PER_BYTE * size, f"{taken:.2f} s for {size:,} bytes"


@pytest.fixture(autouse=True, scope="module")
def _imports_are_no_part_of_it() -> None:
    import ckptaudit.checkpoints.adapters.merge
    import ckptaudit.checkpoints.formats  # noqa: F401


@pytest.mark.parametrize("n", [10_000, 20_000])
@pytest.mark.parametrize("attack", PICKLES, ids=lambda f: f.__name__)
def test_pickles(attack, n, tmp_path):
    odd_pickle(attack(n))(tmp_path)
    bounded(lambda: open_checkpoint(tmp_path), weight(tmp_path))


@pytest.mark.parametrize("n", [4_000, 8_000])
@pytest.mark.parametrize("attack", FOLDERS, ids=lambda f: f.__name__)
def test_folders(attack, n, tmp_path):
    attack(tmp_path, n)
    bounded(lambda: read_all(tmp_path), weight(tmp_path))


def read_all(path: Path) -> None:
    for handle in open_checkpoint(path).tensors.values():
        handle.read()


def write_adapter(folder: Path, names: list[str], patterns: list[str], *, known: bool) -> None:
    folder.mkdir()
    parts = (("lora_A.weight", (4, 1)), ("lora_B.weight", (1, 4))) if known else (("odd", (1, 1)),)
    tensors = {f"base_model.model.{name}.{part}": torch.ones(shape) for name in names for part, shape in parts}
    save_file(tensors, folder / "adapter_model.safetensors")
    ranks = dict.fromkeys(patterns, 4)
    config = {"peft_type": "LORA", "r": 4, "rank_pattern": ranks, "alpha_pattern": ranks}
    (folder / "adapter_config.json").write_text(json.dumps(config))


LONG = [f"{'n.' * 30}{'x' * 100}{i}" for i in range(2_000)]


@pytest.mark.parametrize("n", [1_000, 2_000])
@pytest.mark.parametrize("known", [True, False], ids=["modules", "unknown tensors"])
def test_patterns_of_adapters(n, known, tmp_path):
    names = [f"model.layers.{i}.proj" for i in range(n)]
    write_adapter(tmp_path / "adapter", names, [f"n{i}x" for i in range(n)], known=known)
    base = {f"{name}.weight": torch.ones(1, 1) for name in names} | {f"{MODULE}.weight": torch.ones(4, 4)}
    save_base(tmp_path / "base", **base)
    size = weight(tmp_path / "base") + weight(tmp_path / "adapter")
    bounded(lambda: merge(tmp_path), size)


@pytest.mark.parametrize("n", [1_000, 2_000])
@pytest.mark.parametrize("pattern", [r".*a.*\.+", r".*\d*.*", r"\d+.*\.n"])
def test_expressions_of_adapters(n, pattern, tmp_path):
    write_adapter(tmp_path / "adapter", LONG[:n], [pattern + "x" * i for i in range(1, 25)], known=True)
    save_base(tmp_path / "base")
    bounded(lambda: merge(tmp_path), weight(tmp_path / "adapter"))


def merge(folder: Path) -> None:
    merge_adapter(open_checkpoint(folder / "base"), open_checkpoint(folder / "adapter"))


def weight(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
