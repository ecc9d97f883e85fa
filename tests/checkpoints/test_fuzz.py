"""Whatever the bytes, a file is read or refused in one clean line. `fuzz/` goes on where this stops."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from ckptaudit.checkpoints import merge_adapter, open_checkpoint
from ckptaudit.errors import CheckpointError

# The examples are the same each time: more of them than usual are for a change of a reader.
EXAMPLES = int(os.environ.get("CKPTAUDIT_EXAMPLES", "100"))

fuzzed = settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
WEIGHTS = {"a.weight": torch.ones(3, 4), "b.weight": torch.ones(2, dtype=torch.bfloat16)}


def survives(path: Path) -> None:
    try:
        for handle in open_checkpoint(path).tensors.values():
            assert tuple(handle.read().shape) == handle.shape
    except CheckpointError as error:
        assert_clean(error)


def assert_clean(error: CheckpointError) -> None:
    assert str(error).isprintable()
    assert len(str(error)) < 2000


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """The bytes with a few runs of them replaced, cut out or repeated."""
    data = whole
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 16)))
        data = data[:start] + draw(st.binary(max_size=12) | st.just(data[start:end] * 2)) + data[end:]
    return data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 9)) == 0 else data


def torch_file(path: Path, *, zipped: bool) -> Path:
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("kind", ["model.safetensors", "zip.pt", "legacy.pt"])
def test_damaged_files_of_weights(kind, tmp_path):
    path = tmp_path / kind
    if kind == "model.safetensors":
        save_file(WEIGHTS, path)
    else:
        torch_file(path, zipped=kind == "zip.pt")
    whole = path.read_bytes()

    @fuzzed
    @given(damaged(whole))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        survives(path)

    check()


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
@pytest.mark.parametrize("target", [".metadata", "__0_0.distcp"])
def test_damaged_distributed_checkpoints(target, tmp_path):
    save_distributed({"model": WEIGHTS}, checkpoint_id=tmp_path, no_dist=True)
    path = tmp_path / target
    whole = path.read_bytes()

    @fuzzed
    @given(damaged(whole))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        survives(tmp_path)

    check()


OPCODES = st.sampled_from(
    [bytes([code]) for code in b"().0N}]tuaesbRQ\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x93\x94"]
)
ARGUMENTS = st.sampled_from(
    [
        b"cbuiltins\neval\n",
        b"ctorch\nFloatStorage\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch\nSize\n",
        b"ccollections\nOrderedDict\n",
        b"ctorch._tensor\n_rebuild_from_type_v2\n",
        b"K\x03",
        b"J\xff\xff\xff\xff",
        b"X\x01\x00\x00\x00a",
        b"\x8c\x07storage",
        b"h\x00",
        b"q\x00",
        b"\x8a\x08" + b"\xff" * 8,
        b"I1\n",
        b"F1e9\n",
    ]
)
PROGRAMS = st.lists(OPCODES | ARGUMENTS, max_size=60).map(lambda parts: b"\x80\x02" + b"".join(parts) + b".")


@pytest.mark.parametrize("name", ["model.pt", ".metadata"])
def test_arbitrary_pickle_programs(name, tmp_path):
    head = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}." if name == "model.pt" else b""
    tail = b"\x80\x02]." if name == "model.pt" else b""

    @fuzzed
    @given(PROGRAMS)
    def check(program: bytes) -> None:
        (tmp_path / name).write_bytes(head + program + tail)
        survives(tmp_path)

    check()


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def written(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


SIZES = st.integers(-(2**65), 2**65) | st.integers(0, 64)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "F8_E4M3", "F4", "BOOL", ""]),
        "shape": st.lists(SIZES, max_size=4),
        "data_offsets": st.lists(SIZES, min_size=1, max_size=3),
    }
)


@fuzzed
@given(header=st.dictionaries(st.text(max_size=6), ENTRY | JSON, max_size=3) | JSON, length=st.none() | SIZES)
def test_arbitrary_safetensors_headers(header, length, tmp_path):
    text = written(header)
    claimed = len(text) if length is None else length % 2**64
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", claimed) + text + bytes(64))
    survives(tmp_path)


@fuzzed
@given(index=JSON | st.fixed_dictionaries({"weight_map": st.dictionaries(st.text(), st.text() | JSON, max_size=3)}))
def test_arbitrary_indexes(index, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_bytes(written(index))
    survives(tmp_path)


KINDS = st.just("LORA") | st.just("LORA") | JSON
SETTINGS = {
    "r": st.integers(-3, 9) | JSON,
    "lora_alpha": st.floats() | JSON,
    "use_dora": st.booleans() | JSON,
    "init_lora_weights": st.sampled_from(["pissa", True, "loftq"]) | JSON,
    "rank_pattern": st.dictionaries(st.text(alphabet="ab.*+\\d^$|()[]{}?", max_size=12), st.integers(), max_size=3),
    "target_parameters": JSON,
    "base_model_name_or_path": JSON,
}


@fuzzed
@given(config=st.fixed_dictionaries({"peft_type": KINDS}, optional=SETTINGS) | JSON)
def test_arbitrary_adapter_configurations(config, tmp_path):
    factors = {"lora_A": torch.ones(2, 4), "lora_B": torch.ones(3, 2)}
    prefix = "base_model.model.a."
    save_file({f"{prefix}{k}.weight": v for k, v in factors.items()}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_bytes(written(config))
    base = tmp_path / "base.safetensors"
    base.write_bytes(save(WEIGHTS))
    try:
        merged = merge_adapter(open_checkpoint(base), open_checkpoint(tmp_path))
        assert merged.tensors["a.weight"].read().shape == (3, 4)
    except CheckpointError as error:
        assert_clean(error)


@fuzzed
@given(config=JSON | st.fixed_dictionaries({"quantization_config": JSON, "torch_dtype": JSON}))
def test_arbitrary_model_configurations(config, tmp_path):
    stored = {"a.weight": torch.ones(3, 4).to(torch.float8_e4m3fn), "a.weight_scale_inv": torch.ones(1, 1)}
    save_file(stored, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(written(config))
    survives(tmp_path)


def test_arbitrary_bytes_under_every_name(tmp_path):
    names = ["model.safetensors", "a.pt", ".metadata", "adapter_config.json", "model_world_size_1_rank_0.pt"]

    @fuzzed
    @given(st.sampled_from(names), st.binary(max_size=200))
    def check(name: str, data: bytes) -> None:
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
        survives(folder)

    check()
