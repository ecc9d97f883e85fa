"""Sparse deltas in the two layouts that are read, written from their published sources.

TRL's writer is not in its releases: the layout is that of `encode_patch` and `PatchMetadata` in pull request 5937
of huggingface/trl. PULSE's is that of `compute_sparse_delta` in one-covenant/grail.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

Weights = Mapping[str, Tensor]


def trl_delta(
    path: Path, before: Weights, after: Weights, *, encoding: str = "gap_delta", version: int = 1
) -> Path:
    """What changes between two sets of weights, as TRL writes it."""
    tensors, changed, total = {}, 0, 0
    for name, new in after.items():
        position = (new.flatten() != before[name].flatten()).nonzero()[:, 0].int()
        tensors[f"{name}.val"] = new.flatten()[position.long()].contiguous()
        tensors[f"{name}.idx"] = position if encoding == "raw" else gaps(position)
        changed, total = changed + len(position), total + new.numel()
    facts = {
        "format": "sparse_weight_patch", "version": "1", "sparse": "True", "model_version": str(version),
        "num_changed_params": str(len(after)), "total_changed_elements": str(changed),
        "total_elements": str(total), "sparsity": str(1 - changed / max(total, 1)), "encoding": encoding,
    }  # fmt: skip
    save_file(tensors, path, metadata=facts)
    return path


def gaps(position: Tensor) -> Tensor:
    """Entries passed over before each one, in 16 bits where they fit."""
    found, last = [], -1
    for at in position.tolist():
        found.append(at - last - 1)
        last = at
    return torch.tensor(found, dtype=torch.uint16 if max(found, default=0) < 2**16 else torch.uint32)


def pulse_delta(folder: Path, before: Weights, after: Weights) -> Path:
    """The same as PULSE writes it: a folder, with the shapes in a file of their own."""
    folder.mkdir()
    tensors, shapes = {}, {}
    for name, new in after.items():
        position = (new.flatten() != before[name].flatten()).nonzero()[:, 0].int()
        if len(position):
            tensors[f"{name}.indices"], tensors[f"{name}.values"] = position, new.flatten()[position.long()]
            shapes[name] = list(new.shape)
    save_file(tensors, folder / "delta_sparse.safetensors")
    (folder / "delta_metadata.json").write_text(json.dumps({"format": "sparse_coo", "shapes": shapes}))
    return folder
