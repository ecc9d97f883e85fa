"""What every rank holds in full must be the same for all: a rank that drifted apart is not passed over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.checkpoints.torch_files import fsdp_ranks
from ckptaudit.errors import CheckpointError


def save_ranks(folder: Path, *ranks: dict[str, torch.Tensor]) -> Path:
    for number, state in enumerate(ranks):
        torch.save(state, folder / f"model_world_size_{len(ranks)}_rank_{number}.pt")
    return folder


WEIGHTS = {"a.weight": torch.ones(4, 4), "b.weight": torch.tensor([float("nan"), -0.0])}


def test_equal_copies_are_read_once(tmp_path):
    checkpoint = open_checkpoint(save_ranks(tmp_path, WEIGHTS, WEIGHTS, WEIGHTS))
    assert torch.equal(checkpoint.tensors["a.weight"].read(), WEIGHTS["a.weight"])


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("other", [torch.tensor([float("nan"), 0.0]), torch.tensor([1.0, -0.0])])
def test_copies_that_differ_in_a_bit_are_refused_with_names(rank, other, tmp_path):
    ranks = [dict(WEIGHTS) for _ in range(3)]
    ranks[rank]["b.weight"] = other
    with pytest.raises(CheckpointError, match=rf"rank_{rank}\.pt: its b\.weight differs from that of .*rank_0\.pt"):
        open_checkpoint(save_ranks(tmp_path, *ranks))


@pytest.mark.parametrize("other", [torch.ones(4, 5), torch.ones(16), torch.ones(4, 4).double(), torch.ones(())])
def test_copies_of_other_shape_or_type_are_refused(other, tmp_path):
    with pytest.raises(CheckpointError, match=r"shards of a\.weight"):
        open_checkpoint(save_ranks(tmp_path, WEIGHTS, {**WEIGHTS, "a.weight": other}))


def test_large_copies_are_compared_when_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(fsdp_ranks, "COMPARED_AT_ONCE", 100)
    folder = save_ranks(tmp_path, {"w": torch.ones(1000)}, {"w": torch.zeros(1000)})
    checkpoint = open_checkpoint(folder)
    with pytest.raises(CheckpointError, match="its w differs"):
        checkpoint.tensors["w"].read()


@pytest.mark.parametrize("world", ["0", "000", "00"])
def test_a_world_of_no_ranks_is_refused(world, tmp_path):
    torch.save(WEIGHTS, tmp_path / f"model_world_size_{world}_rank_0.pt")
    with pytest.raises(CheckpointError, match="world of no ranks"):
        open_checkpoint(tmp_path)
