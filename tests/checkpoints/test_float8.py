"""Float8 checkpoints read as what they stand for; packed quantisations are refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.errors import CheckpointError

FORMATS = [torch.float8_e4m3fn, torch.float8_e5m2]


def quantised(weight: Tensor, dtype: torch.dtype, block: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Float8 codes, inverse scales by block, and what they stand for; block by block, as DeepSeek-V3 does."""
    rows, columns = (range(0, n, b) for n, b in zip(weight.shape[-2:], block, strict=True))
    codes = torch.empty(weight.shape, dtype=dtype)
    scales = torch.empty(*weight.shape[:-2], len(rows), len(columns))
    whole = torch.empty(weight.shape)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            here = (..., slice(row, row + block[0]), slice(column, column + block[1]))
            scale = weight[here].abs().amax(dim=(-2, -1)) / torch.finfo(dtype).max
            codes[here] = (weight[here] / scale[..., None, None]).to(dtype)
            scales[..., i, j] = scale
            whole[here] = codes[here].float() * scale[..., None, None]
    return codes, scales, whole


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("shape", [(128, 256), (130, 300), (5, 7), (3, 130, 128)], ids=str)
def test_block_scaled_weights_are_multiplied_out_into_bfloat16(dtype, shape, tmp_path):
    torch.manual_seed(0)
    codes, scales, whole = quantised(torch.randn(shape), dtype, (128, 128))
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(
        {name: codes, f"{name}_scale_inv": scales, "model.norm.weight": torch.ones(3)},
        tmp_path / "model.safetensors",
    )
    checkpoint = open_checkpoint(tmp_path)
    assert list(checkpoint.tensors) == [name, "model.norm.weight"]
    assert checkpoint.tensors[name].dtype == "bfloat16"
    assert torch.equal(checkpoint.tensors[name].read(), whole.bfloat16())


def test_an_unchanged_weight_equals_its_bfloat16_copy(tmp_path):
    torch.manual_seed(0)
    codes, scales, whole = quantised(torch.randn(256, 256), FORMATS[0], (128, 128))
    save_file({"a.weight": codes, "a.weight_scale_inv": scales}, tmp_path / "float8.safetensors")
    save_file({"a.weight": whole.bfloat16()}, tmp_path / "wide.safetensors")
    sides = [open_checkpoint(tmp_path / f"{kind}.safetensors").tensors["a.weight"] for kind in ("float8", "wide")]
    assert torch.equal(sides[0].read(), sides[1].read())


def test_transformers_dequantises_to_the_same_numbers(tmp_path):
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    torch.manual_seed(0)
    codes, scales, _ = quantised(torch.randn(256, 384), FORMATS[0], (128, 128))
    save_file({"a.weight": codes, "a.weight_scale_inv": scales}, tmp_path / "model.safetensors")

    class Quantizer:
        class quantization_config:
            weight_block_size = (128, 128)

    theirs = Fp8Dequantize(Quantizer()).convert(
        {"a.weight": [codes], "a.weight_scale_inv": [scales]}, full_layer_name="a.weight"
    )
    ((their_weight,),) = theirs.values()
    ours = open_checkpoint(tmp_path).tensors["a.weight"].read()
    assert torch.equal(ours, their_weight.bfloat16())


@pytest.mark.parametrize(
    "scale", [torch.tensor(0.5), torch.tensor([0.5]), torch.rand(6, 1)], ids=["0d", "1d", "rows"]
)
def test_scales_per_tensor_and_per_row_are_multiplied_out(scale, tmp_path):
    codes = torch.randn(6, 8).to(FORMATS[0])
    save_file({"a.weight": codes, "a.weight_scale": scale}, tmp_path / "model.safetensors")
    expected = (codes.float() * scale).bfloat16()
    assert torch.equal(open_checkpoint(tmp_path).tensors["a.weight"].read(), expected)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_float8_without_scales_is_widened_exactly(dtype, tmp_path):
    codes = torch.arange(256, dtype=torch.uint8).view(dtype).reshape(16, 16)
    save_file({"a.weight": codes}, tmp_path / "model.safetensors")
    read = open_checkpoint(tmp_path).tensors["a.weight"].read()
    torch.testing.assert_close(read.float(), codes.float(), rtol=0, atol=0, equal_nan=True)


def test_block_size_and_dtype_come_from_the_configuration(tmp_path):
    torch.manual_seed(0)
    codes, scales, whole = quantised(torch.randn(64, 64), FORMATS[0], (32, 16))
    save_file({"a.weight": codes, "a.weight_scale_inv": scales}, tmp_path / "model.safetensors")
    settings = {"quant_method": "fp8", "weight_block_size": [32, 16]}
    (tmp_path / "config.json").write_text(json.dumps({"dtype": "float32", "quantization_config": settings}))
    read = open_checkpoint(tmp_path).tensors["a.weight"]
    assert read.dtype == "float32"
    assert torch.equal(read.read(), whole)


@pytest.mark.parametrize("shape", [(2, 2), (3,), (1, 4), (2, 1, 1)], ids=str)
def test_scales_that_do_not_fit_are_refused(shape, tmp_path):
    save_file(
        {"a.weight": torch.ones(128, 128).to(FORMATS[0]), "a.weight_scale_inv": torch.ones(shape)},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(CheckpointError, match=r"the scales of a\.weight have shape"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "mxfp4", "hqq"])
def test_other_quantisations_are_refused_by_their_configuration(method, tmp_path):
    stored = {"a.weight": torch.ones(2, 2, dtype=torch.uint8), "a.norm.weight": torch.ones(2)}
    save_file(stored, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": method}}))
    with pytest.raises(CheckpointError, match=rf"quantised with {method}.*audit the unquantised weights"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("method", ["gptq", "bitsandbytes"])
def test_plain_weights_are_read_whatever_their_configuration_says_of_quantisation(method, tmp_path):
    save_file({"a.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": method}}))
    assert torch.equal(open_checkpoint(tmp_path).tensors["a.weight"].read(), torch.ones(2, 2))


@pytest.mark.parametrize(
    "name", ["a.qweight", "a.weight.absmax", "a.weight_packed", "a.SCB", "a.gate_up_proj_blocks"]
)
def test_other_quantisations_are_refused_by_their_tensor_names(name, tmp_path):
    save_file({name: torch.ones(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"quantised .*audit the unquantised weights"):
        open_checkpoint(tmp_path)


def test_integers_with_scales_are_refused(tmp_path):
    packed = {"a.weight": torch.ones(4, 4, dtype=torch.int8), "a.weight_scale_inv": torch.ones(1, 1)}
    save_file(packed, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"quantised \(it holds a.weight\)"):
        open_checkpoint(tmp_path)
