"""Named damages to weights outside attention and MLP: vocabulary, routers, recurrent weights, other parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptaudit.checkpoints import Checkpoint, TensorHandle
from ckptaudit.damages.damage import DESCRIPTIONS, damage
from ckptaudit.naming import Naming, in_groups

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DESCRIPTIONS"]

Rewrite = Callable[["Tensor"], "Tensor"]


@damage
def zero_vocabulary(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """Embeddings and output head are zero."""
    return _rewritten(tuned, ("vocabulary",), lambda tensor: tensor.zero_())


@damage
def exchange_vocabulary_rows(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """The first and the last token's rows trade places."""
    return _rewritten(tuned, ("vocabulary",), _exchanged)


@damage
def zero_router(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """Routers of experts are zero."""
    return _rewritten(tuned, ("router",), lambda tensor: tensor.zero_())


@damage
def randomize_recurrent(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """State-space and linear-attention weights are noise of their own size."""
    return _rewritten(tuned, ("state_space", "linear_attention"), _noise)


@damage
def randomize_other_parts(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """Vision parts, heads, sinks, scalars and unknown weights are noise of their own size."""
    return _rewritten(tuned, ("vision", "heads", "sinks", "scalars", "other"), _noise)


@damage
def shift_statistics(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """Buffers that are not trained are one larger."""
    return _rewritten(tuned, ("statistics",), lambda tensor: tensor.add_(1))


@damage
def add_unknown_tensor(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """The tuned side holds a weight that the base does not have."""
    handle = next(handle for handle in tuned.tensors.values() if "float" in handle.dtype)
    name = "unheard_of.weight"
    return replace(tuned, tensors=dict(sorted({**tuned.tensors, name: replace(handle, name=name)}.items())))


@damage
def cut_vocabulary(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """The last row of every vocabulary is lost."""
    return _rewritten(tuned, ("vocabulary",), lambda tensor: tensor[:-1].clone())


def _rewritten(tuned: Checkpoint, groups: tuple[str, ...], rewrite: Rewrite) -> Checkpoint:
    naming = Naming(tuned.config, tuned.tensors)
    handles = {
        name: handle.with_tensor(rewrite(handle.read().clone()))
        for name, handle in tuned.tensors.items()
        if _is_in(naming, name, handle, groups)
    }
    return replace(tuned, tensors={**tuned.tensors, **handles})


def _is_in(naming: Naming, name: str, handle: TensorHandle, groups: tuple[str, ...]) -> bool:
    where, is_matrix = naming.place(name), "float" in handle.dtype and len(handle.shape) >= 2
    return in_groups(where.role, groups, is_matrix=is_matrix, in_experts=where.in_experts)


def _exchanged(tensor: Tensor) -> Tensor:
    return tensor[[-1, *range(1, len(tensor) - 1), 0]] if tensor.dim() > 1 else tensor


def _noise(tensor: Tensor) -> Tensor:
    import torch

    random = torch.Generator().manual_seed(0)
    size = tensor.float().square().mean().sqrt()
    return (torch.randn(tensor.shape, generator=random) * size).to(tensor.dtype)
