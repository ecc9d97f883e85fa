"""Sparse deltas to be damaged, on top of a small base beside them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from ckptaudit.checkpoints import merge_adapter, open_checkpoint
from tests.checkpoints.deltas.write_deltas import pulse_delta, trl_delta

BEFORE = {"a.weight": torch.arange(12.0).view(3, 4), "b.weight": torch.ones(5)}
AFTER = {"a.weight": BEFORE["a.weight"] + torch.eye(3, 4), "b.weight": torch.tensor([1.0, 2.0, 1.0, 3.0, 1.0])}


def read_patched(name: str, folder: Path) -> None:
    """The delta of this name on its base, read completely; never of another shape than that."""
    base, delta = open_checkpoint(folder.parent / "base"), open_checkpoint(folder / name)
    for tensor, handle in merge_adapter(base, delta).tensors.items():
        shape = tuple(handle.read().shape)
        # One that is no longer told for a delta is weights like any other.
        if delta.patches and shape != base.tensors[tensor].shape:
            raise AssertionError(f"{tensor} has another shape than its base")


def _beside_base(write: Callable[[Path], Path], folder: Path) -> Path:
    (folder.parent / "base").mkdir(exist_ok=True)
    save_file(BEFORE, folder.parent / "base" / "model.safetensors")
    return write(folder)


def _trl(encoding: str, folder: Path) -> Path:
    return trl_delta(folder / "delta.safetensors", BEFORE, AFTER, encoding=encoding)


def _pulse(damaged: str, folder: Path) -> Path:
    return pulse_delta(folder / "delta", BEFORE, AFTER) / damaged


DELTAS: dict[str, tuple[str, Callable[[Path], Path], Callable[[Path], None]]] = {
    name: (kind, partial(_beside_base, write), partial(read_patched, read))
    for name, kind, write, read in (
        ("trl gaps", "safetensors", partial(_trl, "gap_delta"), "delta.safetensors"),
        ("trl positions", "safetensors", partial(_trl, "raw"), "delta.safetensors"),
        ("pulse", "safetensors", partial(_pulse, "delta_sparse.safetensors"), "delta"),
        ("pulse shapes", "json", partial(_pulse, "delta_metadata.json"), "delta"),
    )
}
