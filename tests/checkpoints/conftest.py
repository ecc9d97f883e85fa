"""Weights to save in every format, and the one comparison that all formats must pass."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from ckptaudit.checkpoints import Checkpoint, open_checkpoint

WRITER = Path(__file__).with_name("write_distributed.py")


@pytest.fixture(scope="session")
def llama() -> nn.Module:
    """A Llama of two layers, in bfloat16."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=False,
    )  # fmt: skip
    model: nn.Module = LlamaForCausalLM(config)
    return model.to(torch.bfloat16)


@pytest.fixture(scope="session")
def weights(llama: nn.Module) -> dict[str, Tensor]:
    """The Llama's tensors, and some that are awkward to store."""
    awkward = {
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 4),
        "slice": torch.arange(10.0)[3:7],
        "turned": torch.arange(12, dtype=torch.float16).view(3, 4).t(),
        "steps": torch.tensor([1, 2, 3]),
        "mask": torch.tensor([True, False]),
        "infinite": torch.tensor([float("inf"), float("nan"), -0.0]),
    }
    return {**llama.state_dict(), **awkward}


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory, weights: dict[str, Tensor]) -> Checkpoint:
    """The same weights as one safetensors file: what every other format is held against."""
    path = tmp_path_factory.mktemp("plain") / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    return open_checkpoint(path)


@pytest.fixture(scope="session")
def distributed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes train nothing and save an FSDP2 model: see write_distributed.py."""
    folder = tmp_path_factory.mktemp("distributed")
    ranks = [subprocess.Popen([sys.executable, str(WRITER), str(folder), str(rank)]) for rank in range(2)]
    assert [rank.wait(timeout=80) for rank in ranks] == [0, 0]
    return folder


@pytest.fixture
def assert_equal() -> Callable[[Checkpoint, Mapping[str, Tensor]], None]:
    """A checkpoint holds exactly these tensors, bit for bit."""

    def check(checkpoint: Checkpoint, expected: Mapping[str, Tensor]) -> None:
        assert list(checkpoint.tensors) == sorted(expected)
        for name, handle in checkpoint.tensors.items():
            read = handle.read()
            assert handle.shape == tuple(expected[name].shape) == tuple(read.shape), name
            assert handle.dtype == str(expected[name].dtype).removeprefix("torch."), name
            assert read.dtype == expected[name].dtype, name
            torch.testing.assert_close(read, expected[name], rtol=0, atol=0, equal_nan=True)

    return check
