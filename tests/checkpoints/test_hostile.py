"""SECURITY.md's promise, attack by attack: no code runs, nothing outside is read, nothing grows or hangs.

Each attack ends in one clean line. A fixture arms a sentinel file that any executed payload would create,
a bound on memory, and an alarm.
"""

from __future__ import annotations

import io
import json
import os
import pickle  # noqa: TID251  the attacker's tool
import resource
import signal
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from ckptaudit.checkpoints import TensorHandle, open_checkpoint
from ckptaudit.errors import CheckpointError

MEMORY = 64 * 2**20


@pytest.fixture
def refused(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Opening the path, and reading all of it, ends in one clean line, in bounded time and memory."""

    def late(*_: object) -> None:
        raise TimeoutError

    def check(path: Path, words: str | None = None) -> str:
        with pytest.raises(CheckpointError, match=words) as caught:
            read_all(path)
        message = str(caught.value)
        assert message.isprintable(), message
        assert len(message) < 1500, message
        return message

    # torch's and numpy's own imports are no part of what an attacker can make us allocate.
    import ckptaudit.checkpoints.formats  # noqa: F401

    signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    tracemalloc.start()
    yield check
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    signal.alarm(0)
    assert peak < MEMORY, f"{peak:,} bytes"
    assert not sentinel(tmp_path).exists(), "the payload ran"


def read_all(path: Path) -> None:
    for handle in open_checkpoint(path).tensors.values():
        handle.read()


def sentinel(tmp_path: Path) -> Path:
    return tmp_path / "payload-ran"


# Pickles


class Payload:
    """Runs a shell command when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def by_reduce(mark: Path) -> bytes:
    return pickle.dumps({"a": Payload(mark)}, protocol=2)


def by_stack_global(mark: Path) -> bytes:
    return pickle.dumps({"a": Payload(mark)}, protocol=4)


def by_instance(mark: Path) -> bytes:
    return b"(S'touch " + str(mark).encode() + b"'\nios\nsystem\n."


def by_object(mark: Path) -> bytes:
    return b"(cos\nsystem\nS'touch " + str(mark).encode() + b"'\no."


def by_exec(mark: Path) -> bytes:
    return b"cbuiltins\nexec\n(S'open(" + repr(str(mark)).encode() + b', "w").close()\'\ntR.'


def by_torch_load(mark: Path) -> bytes:
    inner = pickle.dumps(Payload(mark), protocol=2)
    return b"ctorch.storage\n_load_from_bytes\n(B" + struct.pack("<I", len(inner)) + inner + b"tR."


def by_state(mark: Path) -> bytes:
    """A state given to something that does not expect one, holding what would run."""
    return b"ccollections\nOrderedDict\n)R" + by_reduce(mark)[2:-1] + b"b."


def by_torch_subclass(mark: Path) -> bytes:
    """The rebuilding function that torch allows calls another one, named as data."""
    call = b"cos\nsystem\nctorch\nTensor\n(X" + struct.pack("<I", 6 + len(str(mark))) + b"touch "
    return b"ctorch._tensor\n_rebuild_from_type_v2\n(" + call + str(mark).encode() + b"t}tR."


def by_persistent_id(mark: Path) -> bytes:
    return b"(X\x06\x00\x00\x00module" + by_reduce(mark)[2:-1] + b"X\x00\x00\x00\x00X\x00\x00\x00\x00tQ."


PICKLES = [
    by_reduce, by_stack_global, by_instance, by_object, by_exec, by_torch_load, by_state, by_torch_subclass,
    by_persistent_id,
]  # fmt: skip


def zip_archive(data: bytes, **records: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for name, record in records.items():
            archive.writestr(f"archive/data/{name.removeprefix('_')}", record)
    return buffer.getvalue()


def legacy_archive(data: bytes) -> bytes:
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    return b"".join(pickle.dumps(part, protocol=2) for part in head) + data + pickle.dumps([], protocol=2)


def in_bin(folder: Path, data: bytes) -> None:
    (folder / "pytorch_model.bin").write_bytes(zip_archive(data))


def in_legacy_bin(folder: Path, data: bytes) -> None:
    (folder / "pytorch_model.bin").write_bytes(legacy_archive(data))


def bare(folder: Path, data: bytes) -> None:
    (folder / "model.pt").write_bytes(data)


def in_shard(folder: Path, data: bytes) -> None:
    (folder / "a.bin").write_bytes(zip_archive(data))
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "a.bin"}}')


def in_rank_file(folder: Path, data: bytes) -> None:
    (folder / "model_world_size_1_rank_0.pt").write_bytes(zip_archive(data))


def in_adapter(folder: Path, data: bytes) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (folder / "adapter_model.bin").write_bytes(zip_archive(data))


def in_metadata(folder: Path, data: bytes) -> None:
    (folder / ".metadata").write_bytes(data)


def in_payload(folder: Path, data: bytes) -> None:
    """An honest `.metadata` over a chunk that is not what it was."""
    archive = zip_archive(data)
    edit_metadata(folder, lambda m: [vars(i).update(length=len(archive)) for i in m.storage_data.values()], size=1)
    (payload,) = folder.glob("*.distcp")
    payload.write_bytes(archive)


CARRIERS = [
    in_bin, in_legacy_bin, bare, in_shard, in_rank_file, in_adapter, in_metadata, in_payload,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
@pytest.mark.parametrize("attack", PICKLES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("carrier", CARRIERS, ids=lambda f: f.__name__)
def test_no_pickle_runs(carrier, attack, tmp_path, refused):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    carrier(folder, attack(sentinel(tmp_path)))
    refused(folder, "nothing of it was run")


def test_the_payloads_are_live(tmp_path):
    """The attacks above are real: pickle itself runs them."""
    for attack in (by_reduce, by_stack_global, by_instance, by_object, by_exec):
        mark = tmp_path / attack.__name__
        pickle.loads(attack(mark))
        assert mark.exists()


def doubling_tuples(then: bytes) -> bytes:
    """A tuple of a tuple of ..., each holding the last twice: its hash or text takes 2**100 steps."""
    return b"\x80\x02" + b"}" + b")" + b"q\x00h\x00\x86" * 100 + then


MEMORY_ATTACKS = {
    "bytearray": b"cbuiltins\nbytearray\n(\x8a\x06\x00\x00\x00\x00\x00\x01tR.",
    "tensor": b"ctorch\nFloatTensor\n(\x8a\x06\x00\x00\x00\x00\x00\x01tR.",
    "memo index": b"\x80\x02}r\xff\xff\xff\xff.",
    "bytes of 2**62": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
    "text of 4 GB": b"\x80\x02X\xff\xff\xff\xffx.",
    "frame of 2**62": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}.",
    "hash of doubling tuples": doubling_tuples(b"Ns."),
    "doubling tuples as the state dict": doubling_tuples(b"."),
    "doubling tuples as a storage": doubling_tuples(b"Q."),
    "doubling tuples as a storage's key": b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    + doubling_tuples(b"")[3:]
    + b"NNtQ.",
    "doubling tuples as a name": b"\x80\x02}ctorch\nSize\n" + doubling_tuples(b"")[3:] + b"\x85RNs.",
    "doubling tuples in a record as a name": b"\x80\x02}ctorch\ndevice\n" + doubling_tuples(b"")[3:] + b"\x85RNs.",
    "subclasses of subclasses": b"\x80\x02)q\x000"
    + b"ctorch._tensor\n_rebuild_from_type_v2\n("
    + b"ctorch._tensor\n_rebuild_from_type_v2\nctorch\nTensor\n(" * 3000
    + b"t}t" * 3000
    + b"R.",
    "escaped text": b"S'\\K'\n.",
    "a list within itself": b"\x80\x02]q\x00h\x00a.",
    "a dictionary within itself": b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s.",
    "a long integer": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "digits": b"I" + b"9" * 100_000 + b"\n.",
    "deep lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "deep tuples": b"\x80\x02)" + b"\x85" * 100_000 + b".",
    "marks": b"(" * 100_000 + b".",
    "nothing": b"",
    "no stop": b"\x80\x02}",
    "stack underflow": b"\x80\x020.",
    "unknown opcode": b"\xff",
    "extension registry": b"\x80\x02\x82\x01.",
    "two results": b"\x80\x02}}.",
}


@pytest.mark.parametrize("attack", MEMORY_ATTACKS)
@pytest.mark.parametrize("carrier", [in_bin, in_legacy_bin, in_metadata], ids=lambda f: f.__name__)
def test_no_pickle_grows_or_hangs(carrier, attack, tmp_path, refused):
    carrier(tmp_path, MEMORY_ATTACKS[attack])
    refused(tmp_path)


# torch archives


def record(shape: tuple[int, ...], stride: tuple[int, ...], *, offset: int = 0, count: int = 4) -> bytes:
    """A pickle of {"a": tensor} over storage "0", with whatever geometry is claimed."""

    class Tensor:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (Storage(), offset, shape, stride, False, {})

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, item: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", count) if isinstance(item, Storage) else None

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump({"a": Tensor()})
    return buffer.getvalue()


GEOMETRIES = {
    "a terabyte": record((2**38,), (1,)),
    "four values seen as a terabyte": record((2**38,), (0,)),
    "a product past 2**64": record((2**40, 2**40), (2**40, 1)),
    "a negative size": record((-4,), (1,)),
    "a negative stride": record((4,), (-1,)),
    "a negative offset": record((4,), (1,), offset=-4),
    "an offset past the end": record((4,), (1,), offset=1),
    "an offset of 2**62": record((4,), (1,), offset=2**62),
    "sizes and strides of different length": record((2, 2), (1,)),
    "a size that is text": record(("4",), (1,)),  # type: ignore[arg-type]
    "a size that is a float": record((4.0,), (1,)),  # type: ignore[arg-type]
    "a hundred axes": record((1,) * 100, (1,) * 100),
}


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_no_tensor_claims_more_than_its_storage(geometry, tmp_path, refused):
    (tmp_path / "model.pt").write_bytes(zip_archive(GEOMETRIES[geometry], _0=b"\0" * 16))
    refused(tmp_path, "tensor a|claims more values")


def test_the_honest_geometry_is_read(tmp_path):
    (tmp_path / "model.pt").write_bytes(zip_archive(record((2, 2), (1, 2)), _0=b"\0" * 16))
    assert open_checkpoint(tmp_path).tensors["a"].read().shape == (2, 2)


def test_a_missing_storage_is_refused(tmp_path, refused):
    (tmp_path / "model.pt").write_bytes(zip_archive(record((4,), (1,))))
    refused(tmp_path, "tensor a is described wrongly")


def test_a_legacy_storage_of_2_to_the_62_values_is_refused(tmp_path, refused):
    head = legacy_archive(record((4,), (1,)))[: -len(pickle.dumps([], protocol=2))]
    tail = pickle.dumps(["0"], protocol=2) + struct.pack("<q", 2**62)
    (tmp_path / "model.pt").write_bytes(head + tail)
    refused(tmp_path, "ends beyond the file")


def test_compressed_records_are_refused(tmp_path, refused):
    """A zip bomb: a kilobyte that unpacks to 64 MB."""
    with zipfile.ZipFile(tmp_path / "model.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"}0" * 2**20 + b"}.")
        archive.writestr("archive/data/0", bytes(2**22))
    refused(tmp_path, "compressed")


def test_encrypted_records_are_refused(tmp_path, refused):
    archive = bytearray(zip_archive(b"\x80\x02}."))
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        archive[archive.index(signature) + flags] |= 1
    (tmp_path / "model.pt").write_bytes(archive)
    refused(tmp_path, "encrypted")


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_two_records_of_one_name_are_refused(tmp_path, refused):
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
    refused(tmp_path, "two records of the same name")


def test_a_zip_directory_that_claims_gigabytes_is_refused(tmp_path, refused):
    archive = bytearray(zip_archive(b"\x80\x02}."))
    archive[-10:-6] = struct.pack("<I", 2**32 - 2)
    (tmp_path / "model.pt").write_bytes(archive)
    refused(tmp_path)


@pytest.mark.parametrize("keep", [0, 1, 10, 100, 500, -1])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_torch_files_cut_short_are_refused(zipped, keep, tmp_path, refused):
    torch.save({"a": torch.ones(100)}, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(whole[:keep])
    refused(tmp_path)


# torch.distributed.checkpoint


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"relative_path": "../secret"}, "outside the checkpoint's folder"),
        ({"relative_path": "/etc/passwd"}, "outside the checkpoint's folder"),
        ({"relative_path": "file:///etc/passwd"}, "outside the checkpoint's folder"),
        ({"relative_path": "gone.distcp"}, "missing"),
        ({"offset": 2**62}, "outside"),
        ({"offset": -1}, "outside"),
        ({"length": 2**62}, "outside"),
        ({"length": 10}, "claims more values"),
        ({"offset": "0"}, "outside"),
        ({"transform_descriptors": ["zstd"]}, "compressed"),
    ],
    ids=str,
)
def test_places_in_metadata_are_checked(change, words, tmp_path, refused):
    edit_metadata(tmp_path, lambda metadata: [vars(i).update(change) for i in metadata.storage_data.values()])
    refused(tmp_path, words)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m.state_dict_metadata["a"], "size", torch.Size([2**40, 2**40])),
        lambda m: setattr(m.state_dict_metadata["a"], "size", torch.Size([40, 41])),
        lambda m: setattr(m.state_dict_metadata["a"], "size", (-40, -40)),
        lambda m: setattr(m.state_dict_metadata["a"], "chunks", []),
        lambda m: setattr(m.state_dict_metadata["a"].chunks[0], "offsets", torch.Size([1, 0])),
        lambda m: setattr(m.state_dict_metadata["a"].properties, "dtype", "float32"),
        lambda m: setattr(m.state_dict_metadata["a"].properties, "dtype", torch.float64),
        lambda m: m.state_dict_metadata.update(b=m.state_dict_metadata["a"]),
        lambda m: m.storage_data.clear(),
        lambda m: setattr(m, "state_dict_metadata", [1]),
        lambda m: setattr(m, "storage_data", None),
        lambda m: m.state_dict_metadata.update(a=3),
        lambda m: m.state_dict_metadata.update({"x\x1b[2J\n": m.state_dict_metadata.pop("a")}),
        lambda m: m.state_dict_metadata.clear(),
    ],
    ids=lambda f: str(f.__code__.co_firstlineno),
)
def test_contradictions_in_metadata_are_refused(change, tmp_path, refused):
    edit_metadata(tmp_path, change)
    refused(tmp_path)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_two_tensors_may_not_share_bytes(tmp_path, refused):
    """Otherwise a small file could claim any amount of memory."""

    def share(metadata: Any) -> None:
        metadata.state_dict_metadata["b"] = metadata.state_dict_metadata["a"]
        for index, info in list(metadata.storage_data.items()):
            metadata.storage_data[type(index)("b", index.offset, index.index)] = info

    edit_metadata(tmp_path, share)
    refused(tmp_path, "share bytes")


def edit_metadata(folder: Path, change: Callable[[Any], object], size: int = 40) -> None:
    save_distributed({"a": torch.ones(size, size)}, checkpoint_id=folder, no_dist=True)
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    change(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


# safetensors


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[Any], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


SAFETENSORS = {
    "a header of 2**63 bytes": safetensors({}, length=2**63),
    "a header of 2**64 - 1 bytes": safetensors({}, length=2**64 - 1),
    "a header longer than the file": safetensors({}, length=10_000),
    "no header": b"",
    "three bytes": b"abc",
    "a terabyte in a kilobyte": safetensors({"a": entry([2**38], 0, 2**40)}, bytes(1000)),
    "a product past 2**64": safetensors({"a": entry([2**33, 2**33], 0, 16)}, bytes(16)),
    "a product that wraps to 4": safetensors({"a": entry([2**32, 2**32 + 1], 0, 16)}, bytes(16)),
    "overlapping": safetensors({"a": entry([4], 0, 16), "b": entry([4], 8, 24)}, bytes(24)),
    "out of range": safetensors({"a": entry([4], 16, 32)}, bytes(16)),
    "negative": safetensors({"a": entry([4], -16, 0)}, bytes(16)),
    "backwards": safetensors({"a": entry([4], 16, 0)}, bytes(16)),
    "a hole": safetensors({"a": entry([4], 0, 16), "b": entry([4], 20, 36)}, bytes(36)),
    "too few bytes": safetensors({"a": entry([4], 0, 12)}, bytes(12)),
    "trailing bytes": safetensors({"a": entry([4], 0, 16)}, bytes(64)),
    "an unknown dtype": safetensors({"a": entry([4], 0, 16, "F31")}, bytes(16)),
    "a negative size": safetensors({"a": entry([-4], 0, 16)}, bytes(16)),
    "a fractional size": safetensors({"a": entry([4.5], 0, 16)}, bytes(16)),
    "a name twice": safetensors(
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
        b'"a":{"dtype":"I32","shape":[4],"data_offsets":[0,16]}}',
        bytes(16),
    ),
    "nested deeply": safetensors(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "lists nested deeply": safetensors(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "no JSON": safetensors(b"\xff\xfe not json"),
    "a list": safetensors([1, 2]),
    "no tensors": safetensors({}),
}
NAMES = {
    "newline": "a\nb",
    "carriage return": "a\rb",
    "terminal escape": "\x1b]0;owned\x07\x1b[2Ja",
    "eight-bit escape": "\x9b2Ja",
    "right-to-left override": "a\u202eb",
    "nul": "a\0b",
    "HTML": "<script>alert(1)</script>",
    "attribute": 'x" onload="alert(1)',
    "a megabyte": "a" * 2**20,
    "nothing": "",
    "a lone surrogate": "\udc80",
}


@pytest.mark.parametrize("attack", SAFETENSORS)
def test_safetensors_headers_are_checked(attack, tmp_path, refused):
    (tmp_path / "model.safetensors").write_bytes(SAFETENSORS[attack])
    refused(tmp_path)
    refused(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_names_that_no_model_gives_are_refused(name, tmp_path, refused):
    header = {NAMES[name]: entry([4], 0, 16)}
    (tmp_path / "model.safetensors").write_bytes(safetensors(header, bytes(16)))
    refused(tmp_path)


def test_names_are_checked_in_pickles_too(tmp_path, refused):
    torch.save({NAMES["terminal escape"]: torch.ones(2)}, tmp_path / "model.pt")
    refused(tmp_path, "no name that a model gives")


@pytest.mark.parametrize("key", [None, 3, ("a", "b")], ids=str)
def test_a_tensor_under_a_key_that_is_no_text_is_not_left_out(key, tmp_path, refused):
    torch.save({"model.norm.weight": torch.ones(2), key: torch.ones(2)}, tmp_path / "model.pt")
    refused(tmp_path, "under a key that is no text")


def test_what_is_no_tensor_may_stand_under_any_key(tmp_path):
    torch.save({"model.norm.weight": torch.ones(2), 3: "three", None: 0.5}, tmp_path / "model.pt")
    assert list(open_checkpoint(tmp_path).tensors) == ["model.norm.weight"]


def test_a_file_larger_than_the_address_space_is_named_and_not_called_damaged(tmp_path):
    size = 2**42
    header = b'{"w":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}' % (size // 4, size)
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + size)
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**41, before[1]))
    try:
        with pytest.raises(CheckpointError, match=r"model\.safetensors: .* do not fit into the memory") as caught:
            open_checkpoint(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert "damaged" not in str(caught.value)


def test_not_a_number_infinity_and_nothing_are_read_as_they_are(tmp_path):
    stored = {"odd": torch.tensor([float("nan"), float("inf")]), "none": torch.zeros(0, 3)}
    save_file(stored, tmp_path / "model.safetensors")
    read = open_checkpoint(tmp_path).tensors
    assert read["odd"].read().isfinite().sum() == 0
    assert read["none"].read().shape == (0, 3)


# Indexes and configurations

NESTED = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "shard",
    [
        "../outside.safetensors", "/etc/passwd", "a/../../outside.safetensors", "file:///etc/passwd",
        "..", ".", "", "https://host/model.safetensors", "C:\\model.safetensors", "..\\outside.safetensors",
        "a\0b", "gone.safetensors", "x\x1b[2J\n.safetensors", "a" * 2**20, "sub/inside.safetensors",
    ],
    ids=lambda s: s[:30],
)  # fmt: skip
@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_an_index_cannot_point_elsewhere(index, shard, tmp_path, refused):
    inside = tmp_path / "checkpoint"
    (inside / "sub").mkdir(parents=True)
    for place in (tmp_path / "outside.safetensors", inside / "sub" / "inside.safetensors"):
        save_file({"a": torch.ones(2)}, place)
    (inside / index).write_text(json.dumps({"weight_map": {"a": shard}}))
    refused(inside)


INDEXES = [b"", b"{}", b"[]", b'{"weight_map": {}}', b'{"weight_map": {"a": 3}}', b'{"weight_map": ',
           b"\xff", NESTED, b'{"x": ' + NESTED + b', "weight_map": {"a": "b"}}']  # fmt: skip


@pytest.mark.parametrize("text", INDEXES, ids=lambda t: repr(t[:24]))
def test_broken_indexes_are_refused(text, tmp_path, refused):
    (tmp_path / "model.safetensors.index.json").write_bytes(text)
    refused(tmp_path)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"\xff", NESTED, b'{"a":' + NESTED + b"}"], ids=lambda t: repr(t[:12])
)
@pytest.mark.parametrize("name", ["config.json", "adapter_config.json"])
def test_broken_configurations_are_refused(name, text, tmp_path, refused):
    weights = "model" if name == "config.json" else "adapter_model"
    save_file({"a": torch.ones(2)}, tmp_path / f"{weights}.safetensors")
    (tmp_path / name).write_bytes(text)
    refused(tmp_path)


def test_an_index_of_gigabytes_is_not_read(tmp_path, refused):
    with (tmp_path / "model.safetensors.index.json").open("wb") as file:
        file.truncate(2**33)
    refused(tmp_path, "more than")


# The file system


def file_of(handle: TensorHandle) -> Path:
    """The file here that a tensor is read from."""
    assert isinstance(handle.file, Path)
    return handle.file


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy", "distributed"])
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_a_file_that_shrinks_while_open_is_refused(kind, tmp_path):
    weights = {"a": torch.ones(500, 500)}
    if kind == "safetensors":
        save_file(weights, tmp_path / "model.safetensors")
    elif kind == "distributed":
        save_distributed(weights, checkpoint_id=tmp_path, no_dist=True)
    else:
        torch.save(weights, tmp_path / "model.pt", _use_new_zipfile_serialization=kind == "zip")
    handle = open_checkpoint(tmp_path).tensors["a"]
    os.truncate(file_of(handle), 400_000)
    with pytest.raises(CheckpointError, match=r"cut short|save the checkpoint again|damaged"):
        handle.read()


def test_a_file_that_shrinks_during_a_read_is_refused(tmp_path, monkeypatch):
    from ckptaudit.checkpoints import storage

    save_file({"a": torch.ones(500, 500)}, tmp_path / "model.safetensors")
    handle = open_checkpoint(tmp_path).tensors["a"]
    size = file_of(handle).stat().st_size
    seen = storage.stamp(file_of(handle).stat())  # type: ignore[attr-defined]
    monkeypatch.setattr(storage, "file_size", lambda _: size)
    monkeypatch.setattr(storage, "stamp", lambda _: seen)
    os.truncate(file_of(handle), 400_000)
    with pytest.raises(CheckpointError, match="cut short"):
        handle.read()


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy", "distributed"])
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_a_file_that_is_replaced_after_opening_is_refused(kind, tmp_path):
    """Another file of the same size: its numbers would be taken for those that were opened."""
    weights = {"a": torch.ones(50, 50)}
    if kind == "safetensors":
        save_file(weights, tmp_path / "model.safetensors")
    elif kind == "distributed":
        dcp.save(weights, checkpoint_id=tmp_path, no_dist=True)  # type: ignore[attr-defined]
    else:
        torch.save(weights, tmp_path / "model.pt", _use_new_zipfile_serialization=kind == "zip")
    handle = open_checkpoint(tmp_path).tensors["a"]
    handle.read()
    other = tmp_path / "other"
    other.write_bytes(file_of(handle).read_bytes()[:-4] + bytes(4))
    other.replace(file_of(handle))
    with pytest.raises(CheckpointError, match="changed while it was audited"):
        handle.read()


def test_a_file_that_vanishes_is_refused(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    handle = open_checkpoint(tmp_path).tensors["a"]
    file_of(handle).unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        handle.read()


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", ".metadata", "model.safetensors.index.json"])
def test_unreadable_files_are_refused(name, tmp_path, refused):
    (tmp_path / name).write_bytes(b"{}")
    (tmp_path / name).chmod(0)
    refused(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", ".metadata", "a.pt"])
def test_symlink_loops_and_dangling_links_are_refused(name, tmp_path, refused):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    refused(loop, "leads nowhere")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / name).symlink_to(folder / name)
    refused(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", ".metadata", "a.pt", "config.json"])
def test_pipes_and_devices_are_never_waited_for(name, tmp_path, refused):
    os.mkfifo(tmp_path / name)
    refused(tmp_path)
    refused(tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    refused(tmp_path)


@pytest.mark.parametrize("inner", ["actor", "pytorch_model_fsdp_0"])
def test_a_folder_within_itself_is_refused(inner, tmp_path, refused):
    (tmp_path / inner).symlink_to(tmp_path)
    refused(tmp_path, "no weights here")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", ".metadata", "adapter_config.json"])
def test_folders_where_files_belong_are_refused(name, tmp_path, refused):
    (tmp_path / name).mkdir()
    refused(tmp_path)


def test_rank_files_that_claim_a_huge_world_are_refused(tmp_path, refused):
    (tmp_path / "model_world_size_999999_rank_0.pt").write_bytes(zip_archive(b"\x80\x02}."))
    refused(tmp_path, "rank 1 of 999999 is missing")
