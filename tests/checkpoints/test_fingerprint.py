"""Two checkpoints that differ have different fingerprints; one that was copied keeps its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ckptaudit.checkpoints import fingerprint, open_checkpoint
from ckptaudit.errors import CheckpointError

WriteCheckpoint = Callable[..., Path]


def test_a_copy_keeps_it(fixture_pairs: Path, tmp_path: Path) -> None:
    shutil.copytree(fixture_pairs / "base", tmp_path / "copy")
    names = [fingerprint(open_checkpoint(p)) for p in (fixture_pairs / "base", tmp_path / "copy")]
    assert names[0] == names[1]
    assert len(names[0]) == 32


def test_every_bundled_checkpoint_has_its_own(fixture_pairs: Path) -> None:
    folders = [fixture_pairs / name for name in ("base", "rlvr", "rlvr-gentle", "sft")]
    assert len({fingerprint(open_checkpoint(folder)) for folder in folders}) == 4


def test_names_and_types_count_and_not_only_bytes(write_checkpoint: WriteCheckpoint) -> None:
    zeros = torch.zeros(4, 4)
    folders = [
        write_checkpoint("a", {"layers.0.q_proj.weight": zeros}),
        write_checkpoint("b", {"layers.0.k_proj.weight": zeros}),
        write_checkpoint("c", {"layers.0.q_proj.weight": zeros.view(torch.int32)}),
    ]
    assert len({fingerprint(open_checkpoint(folder)) for folder in folders}) == 3


def test_a_dense_update_of_a_large_file_shows_between_its_ends(write_checkpoint: WriteCheckpoint) -> None:
    weight = torch.randn(512, 4096, generator=torch.Generator().manual_seed(0))
    changed = weight.clone()
    changed[64:448] *= 1.001
    before, after = (write_checkpoint(n, {"w": w}) for n, w in (("before", weight), ("after", changed)))
    assert fingerprint(open_checkpoint(before)) != fingerprint(open_checkpoint(after))


def test_a_file_that_went_away_is_named(write_checkpoint: WriteCheckpoint) -> None:
    folder = write_checkpoint("gone", {"w": torch.zeros(2)})
    opened = open_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read any more"):
        fingerprint(opened)
