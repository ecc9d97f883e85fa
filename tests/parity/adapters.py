"""Bases, adapters and merges, made by peft and saved as its users save them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn

from ckptaudit.checkpoints import Checkpoint, open_checkpoint
from ckptaudit.findings import Finding
from ckptaudit.parity.merge_faults import merge_faults
from ckptaudit.parity.merges import Merge


@dataclass(frozen=True)
class Merged:
    """Folders of a base, an adapter and peft's merge of the two."""

    base: Path
    adapter: Path
    merged: Path

    def faults(self, tensors: Mapping[str, Tensor] | None = None) -> list[Finding]:
        """What is wrong with peft's merge, or with these tensors in its place."""
        return list(merge_faults(self.merge(tensors)))

    def merge(self, tensors: Mapping[str, Tensor] | None = None) -> Merge:
        merged = open_checkpoint(self.merged)
        if tensors is not None:
            handles = {n: merged.tensors[n].with_tensor(t) for n, t in tensors.items()}
            merged = Checkpoint(merged.path, merged.format, {**merged.tensors, **handles}, merged.config)
        return Merge(open_checkpoint(self.base), open_checkpoint(self.adapter), merged)


def trained(base: nn.Module, config: LoraConfig, *, seed: int = 1, size: float = 0.05) -> PeftModel:
    """A model whose adapter is no longer what it was begun with."""
    model = get_peft_model(copy.deepcopy(base), copy.deepcopy(config))
    random = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "magnitude" not in name:
            parameter.data.add_(size * torch.randn(parameter.shape, generator=random))
        elif parameter.requires_grad:
            parameter.data.mul_(1.01)
    return model


def made(folder: Path, base: nn.Module, config: LoraConfig, *, size: float = 0.05) -> Merged:
    """Base, adapter and merge, saved as their users save them."""
    paths = Merged(folder / "base", folder / "adapter", folder / "merged")
    base.save_pretrained(paths.base)  # type: ignore[operator]
    trained(base, config, size=size).save_pretrained(str(paths.adapter))
    PeftModel.from_pretrained(copy.deepcopy(base), paths.adapter).merge_and_unload().save_pretrained(paths.merged)
    return paths


def rewritten(folder: Path, tensors: Mapping[str, Tensor], target: Path) -> Path:
    """A copy of a checkpoint's folder with other tensors."""
    target.mkdir()
    (target / "config.json").write_text((folder / "config.json").read_text())
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, target / "model.safetensors")
    return target
