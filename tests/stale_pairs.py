"""Small pairs whose tuned side was left at the base in places, with the evidence about a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ckptaudit.checkpoints import Checkpoint, TensorHandle
from ckptaudit.metrics.evidence import RunEvidence
from ckptaudit.pairing import ModelPair, pair_checkpoints

ROLES = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
File = Callable[[str], str]


def decoder(layers: int = 6, experts: int = 0, width: int = 64) -> dict[str, Tensor]:
    """A decoder's tensors in bf16: square matrices, two norms a layer, a vocabulary; with experts if asked for."""
    random = torch.Generator().manual_seed(layers)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (40, width), "lm_head.weight": (40, width)}
    for i in range(layers):
        prefix = f"model.layers.{i}."
        shapes |= {f"{prefix}{role}.weight": (width, width) for role in ROLES if not (experts and "mlp" in role)}
        shapes |= {f"{prefix}mlp.experts.{e}.up_proj.weight": (width, width) for e in range(experts)}
        shapes[f"{prefix}input_layernorm.weight"] = (width,)
    return {name: torch.randn(shape, generator=random).bfloat16() for name, shape in shapes.items()}


def trained(base: Mapping[str, Tensor], share: float = 0.3, seed: int = 1, by: float = 2.0) -> dict[str, Tensor]:
    """The tensors after an update that multiplies a random share of the entries of each."""
    random = torch.Generator().manual_seed(seed)
    return {n: torch.where(torch.rand(w.shape, generator=random) < share, by * w, w) for n, w in base.items()}


def pair_of(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], file: File = lambda name: "one") -> ModelPair:
    """Both sides paired, as if read from files; `file` says which one holds a tuned tensor."""
    return pair_checkpoints(_checkpoint("base", base, file), _checkpoint("tuned", tuned, file))


def evidence_of(pair: ModelPair, frozen: tuple[str, ...] = ()) -> RunEvidence:
    """The pair with its counts, made here by comparing rows and entries one by one."""
    differing, rows = {}, {}
    for tensor in pair.aligned:
        count, m, n = tensor.matrix_shape
        differs = (tensor.base.read() != tensor.tuned.read()).reshape(count, m, n)
        for name, marks in zip(tensor.matrix_names(), differs, strict=True):
            differing[name] = float(marks.sum())
            rows[name] = float(_longest([bool(row.any()) for row in marks]))
    return RunEvidence(pair, {"differing_entries": differing, "unchanged_rows": rows}, frozen)


def _longest(changed: list[bool]) -> int:
    best = run = 0
    for mark in changed:
        run = 0 if mark else run + 1
        best = max(best, run)
    return best


def _checkpoint(path: str, tensors: Mapping[str, Tensor], file: File) -> Checkpoint:
    def handle(name: str, tensor: Tensor) -> TensorHandle:
        dtype = str(tensor.dtype).removeprefix("torch.")
        return TensorHandle(name, tuple(tensor.shape), dtype, Path(path, file(name)), lambda: tensor)

    return Checkpoint(path, "safetensors", {n: handle(n, w) for n, w in sorted(tensors.items())})
