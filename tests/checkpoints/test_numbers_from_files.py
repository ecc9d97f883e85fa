"""Numbers from a file are bounded before they meet torch: shapes, strides, offsets, keys, worlds, settings."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.errors import CheckpointError
from tests.checkpoints.attacks import (
    number,
    safetensors,
    save_base,
    sizes,
    state_dict,
    storage,
    tensor,
    text,
    zip_archive,
)

HUGE = (2**62, 2**63 - 1, 2**63, 2**64, 2**200, 10**5000)
GEOMETRIES = {
    **{f"{what} {place} of about 2**{value.bit_length()}": steps
       for value in HUGE
       for what, place, steps in (
           ("a", "size", tensor([value], [1])),
           ("a", "stride", tensor([2], [value])),
           ("an", "offset", tensor([4], [1], value)),
           ("a negative", "offset", tensor([4], [1], -value)),
           ("a negative", "stride", tensor([2], [-value])),
       )},
    "twenty sizes of 2**62": tensor([2**62] * 20, [1] * 20),
    "sizes that overflow beside a zero": tensor([0] + [2**62] * 3, [1] * 4),
    "a huge empty tensor": tensor([0, 2**40], [2**40, 1]),
    "many empty rows": tensor([2**40, 0], [1, 1]),
    **{f"an offset of {value}": tensor([4], [1], value) for value in (math.nan, math.inf, 0.0, 0.5, True)},
    **{f"a size of {value}": tensor([value], [1]) for value in (math.nan, math.inf, 4.0, True, False, -1)},
    **{f"a stride of {value}": tensor([4], [value]) for value in (math.nan, 1.0, True, -1)},
    "a dtype as shape": b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage() + b"K\x00ctorch\nfloat32\n)\x89}tR",
    "a storage within a storage": b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage")
    + b"ctorch\nFloatStorage\n" + storage() + text("cpu") + b"K\x04tQK\x00" + sizes([4]) + sizes([1]) + b"\x89}tR",
}  # fmt: skip


def read_all(path: Any) -> None:
    for handle in open_checkpoint(path).tensors.values():
        handle.read()


def refused(path: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_all(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
    return str(caught.value)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_no_geometry_of_a_pickle_reaches_torch_unchecked(geometry, tmp_path):
    (tmp_path / "model.pt").write_bytes(zip_archive(state_dict(text("w") + GEOMETRIES[geometry]), _0=bytes(16)))
    refused(tmp_path)


def test_honest_geometries_are_read(tmp_path):
    steps = (
        text("w") + tensor([2, 2], [1, 2]) + text("one") + tensor([1], [2**62], 3) + text("e") + tensor([0], [1])
    )
    (tmp_path / "model.pt").write_bytes(zip_archive(state_dict(steps), _0=bytes(16)))
    shapes = {name: tuple(h.read().shape) for name, h in open_checkpoint(tmp_path).tensors.items()}
    assert shapes == {"w": (2, 2), "one": (1,), "e": (0,)}


@pytest.mark.parametrize(
    "shape", [[0, 2**62, 2**62], [2**62, 0, 2**62], [2**40, 0], [0, 2**63 - 1], [0, 2**63], [0] + [2**31] * 3]
)
def test_empty_tensors_of_safetensors_claim_no_overflowing_shape(shape, tmp_path):
    header = {"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}
    (tmp_path / "model.safetensors").write_bytes(safetensors(header))
    refused(tmp_path)


@pytest.mark.parametrize("shape", [[0], [0, 0, 0], [0, 4096], [64, 0, 4096]])
def test_honest_empty_tensors_are_read(shape, tmp_path):
    header = {"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}
    (tmp_path / "model.safetensors").write_bytes(safetensors(header))
    assert list(open_checkpoint(tmp_path).tensors["w"].read().shape) == shape


@pytest.mark.parametrize("value", [["fp8"], {"a": 1}, 8, True, [[]], None, "fp8", "", "bitsandbytes"])
@pytest.mark.parametrize("key", ["quant_method", "weight_block_size", "dtype", "torch_dtype"])
def test_settings_of_any_type_are_read_or_refused(value, key, tmp_path):
    quantised = {"quant_method": "fp8", "weight_block_size": [8, 8]}
    config = {"quantization_config": {**quantised, key: value}, **({key: value} if "dtype" in key else {})}
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = {"w.weight": torch.ones(16, 16).to(torch.float8_e4m3fn), "w.weight_scale_inv": torch.ones(2, 2)}
    save_file(weights, tmp_path / "model.safetensors")
    try:
        assert open_checkpoint(tmp_path).tensors["w.weight"].read().shape == (16, 16)
    except CheckpointError as error:
        assert str(error).isprintable()  # noqa: PT017  either ending will do


@pytest.mark.parametrize("block", [[2**70, 2**70], [1, 2**63], [-1, 8], [True, 8], [0, 0], [8.0, 8.0], [8]])
def test_block_sizes_of_any_size_are_read_or_refused(block, tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"quantization_config": {"quant_method": "fp8", "weight_block_size": block}})
    )
    weights = {"w.weight": torch.ones(16, 16).to(torch.float8_e4m3fn), "w.weight_scale_inv": torch.ones(1, 1)}
    save_file(weights, tmp_path / "model.safetensors")
    assert open_checkpoint(tmp_path).tensors["w.weight"].read().shape == (16, 16)


@pytest.mark.parametrize("depth", [100, 1000, 200_000])
@pytest.mark.parametrize("name", ["config.json", "adapter_config.json"])
def test_configurations_nested_deeply_are_refused(depth, name, tmp_path):
    save_base(tmp_path)
    if name == "adapter_config.json":
        (tmp_path / "model.safetensors").rename(tmp_path / "adapter_model.safetensors")
    (tmp_path / name).write_text('{"peft_type": "LORA", "a": ' + '{"b": [' * depth + "]}" * depth + "}")
    refused(tmp_path)


def test_configurations_of_many_megabytes_are_refused(tmp_path):
    save_base(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"a": "x" * 17 * 2**20}))
    assert "more than" in refused(tmp_path)


@pytest.mark.parametrize("key", [1, 0, -1, 2**31, 1.5, True])
def test_keys_that_are_numbers_stay_apart_from_texts(key, tmp_path):
    steps = number(key) + b"N" + text(repr(key)) + tensor([4], [1])
    (tmp_path / "model.pt").write_bytes(zip_archive(state_dict(steps), _0=bytes(16)))
    assert list(open_checkpoint(tmp_path).tensors) == [repr(key)]
