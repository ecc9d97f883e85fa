from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

# pytester's runs in this process forget every module that was first imported within one, and would leave
# two copies of it behind: everything that is imported late in use is imported here.
import ckptaudit.checkpoints.recognise
import ckptaudit.plugin.gate
import ckptaudit.plugin.scheduling  # noqa: F401
from ckptaudit.checkpoints import Checkpoint, open_checkpoint

FIXTURES = Path(__file__).parent.parent / "fixtures"

WriteCheckpoint = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_user() -> Iterator[None]:
    """Nothing that a test runs, in this process or another, reads or writes the cache of whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CKPTAUDIT_CACHE", "off")
        yield


@pytest.fixture(scope="session")
def fixture_pairs() -> Path:
    """The folder of the bundled checkpoints."""
    return FIXTURES


@pytest.fixture(scope="session")
def base() -> Checkpoint:
    return open_checkpoint(FIXTURES / "base")


@pytest.fixture(scope="session")
def gentle() -> Checkpoint:
    return open_checkpoint(FIXTURES / "rlvr-gentle")


@pytest.fixture
def write_checkpoint(tmp_path: Path) -> WriteCheckpoint:
    """Save tensors by name as a checkpoint folder of the given name."""

    def write(name: str, tensors: dict[str, torch.Tensor]) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors")
        return folder

    return write


@pytest.fixture
def small_pair(write_checkpoint: WriteCheckpoint) -> tuple[Path, Path]:
    """Two layers of one 16 x 24 matrix and one vector each, in bf16; the tuned side a thousandth away."""
    random = torch.Generator().manual_seed(0)
    before = {
        f"model.layers.{i}.{name}": torch.randn(shape, generator=random).bfloat16()
        for i in range(2)
        for name, shape in (("self_attn.q_proj.weight", (16, 24)), ("input_layernorm.weight", (24,)))
    }
    after = {
        k: (v.float() * (1 + 1e-3 * torch.randn(v.shape, generator=random))).bfloat16() for k, v in before.items()
    }
    return write_checkpoint("base", before), write_checkpoint("tuned", after)
