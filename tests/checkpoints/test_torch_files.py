"""State dicts that torch.save wrote read the same as safetensors."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.errors import CheckpointError


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "weights.pth"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_state_dict_reads_like_the_plain_file(name, zipped, weights, assert_equal, tmp_path):
    torch.save(weights, tmp_path / name, _use_new_zipfile_serialization=zipped)
    assert_equal(open_checkpoint(tmp_path), weights)
    assert_equal(open_checkpoint(tmp_path / name), weights)


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model", "module"])
def test_a_state_dict_is_found_inside_a_training_state(wrapper, weights, assert_equal, tmp_path):
    moments = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-6, "betas": (0.9, 0.99)}]}
    torch.save({wrapper: OrderedDict(weights), "optimizer": moments, "epoch": 3}, tmp_path / "last.pt")
    assert_equal(open_checkpoint(tmp_path / "last.pt"), weights)


def test_wrappers_may_be_nested(assert_equal, tmp_path):
    torch.save({"model": {"state_dict": {"a": torch.ones(2)}}}, tmp_path / "last.pt")
    assert_equal(open_checkpoint(tmp_path / "last.pt"), {"a": torch.ones(2)})


def test_parameters_and_modules_state_dicts_are_plain_tensors(llama: nn.Module, assert_equal, tmp_path):
    torch.save(dict(llama.named_parameters()), tmp_path / "parameters.pt")
    expected = {name: parameter.detach() for name, parameter in llama.named_parameters()}
    assert_equal(open_checkpoint(tmp_path / "parameters.pt"), expected)


def test_shards_are_read_through_their_index(weights: dict[str, Tensor], assert_equal, tmp_path):
    names = list(weights)
    shards = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for shard, held in shards.items():
        torch.save({name: weights[name] for name in held}, tmp_path / shard)
    index = {"weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert_equal(open_checkpoint(tmp_path), weights)


def test_float8_and_unsigned_dtypes_survive(tmp_path):
    stored = {"a": torch.arange(4).to(torch.uint16), "b": torch.tensor([1.0, -0.5]).to(torch.float8_e4m3fn)}
    torch.save(stored, tmp_path / "odd.pt")
    read = open_checkpoint(tmp_path / "odd.pt").tensors
    assert read["a"].read().tolist() == [0, 1, 2, 3]
    assert read["b"].read().tolist() == [1.0, -0.5]


def test_opening_reads_the_pickle_alone_and_loading_one_tensor_alone(
    monkeypatch: pytest.MonkeyPatch, weights: dict[str, Tensor], tmp_path: Path
):
    from ckptaudit.checkpoints import storage

    torch.save(weights, tmp_path / "pytorch_model.bin")
    asked: list[int] = []
    read_bytes: Callable[..., Tensor] = storage.read_bytes

    def read(path: Path, start: int, size: int, seen: tuple[int, int]) -> Tensor:
        asked.append(size)
        return read_bytes(path, start, size, seen)

    monkeypatch.setattr(storage, "read_bytes", read)
    checkpoint = open_checkpoint(tmp_path)
    assert asked == []
    checkpoint.tensors["lm_head.weight"].read()
    assert asked == [64 * 32 * 2]


def test_optimizer_files_beside_the_weights_are_passed_over(weights, assert_equal, tmp_path):
    torch.save(weights, tmp_path / "weights.pt")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (tmp_path / name).write_bytes(b"not read")
    assert_equal(open_checkpoint(tmp_path), weights)


@pytest.mark.parametrize("contents", [[1, 2], {"epoch": 3}, {}, torch.nn.ReLU], ids=repr)
def test_a_file_without_tensors_says_so(contents, tmp_path):
    torch.save(contents, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=r"no tensors in it|which no weights need"):
        open_checkpoint(tmp_path / "last.pt")


def test_a_torchscript_program_is_refused(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:
        archive.writestr("net/data.pkl", b"\x80\x02}.")
        archive.writestr("net/constants.pkl", b"\x80\x02).")
    with pytest.raises(CheckpointError, match="TorchScript"):
        open_checkpoint(tmp_path / "net.pt")
