"""Short real trainings that tests need and no bundled checkpoint shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal


def train_by_muon(base: Path, probes: Path, *, steps: int = 3, rate: float = 3e-3) -> dict[str, Tensor]:
    """The base after some steps of Muon on its hidden matrices, in float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base)
    texts = [json.loads(line) for line in probes.read_text().splitlines()]
    rows = [tokenizer("".join(t.values()), return_tensors="pt")["input_ids"] for t in texts]
    hidden = [p for n, p in model.named_parameters() if p.dim() == 2 and "layers" in n]
    optimizer = torch.optim.Muon(hidden, lr=rate, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.stack([model(input_ids=ids, labels=ids).loss for ids in rows]).mean().backward()
        optimizer.step()
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


def learn_rotation(source: Tensor, target: Tensor, *, steps: int = 30) -> tuple[Tensor, Tensor]:
    """An orthogonal layer before and after it learned to map the rows of `source` near those of `target`."""
    torch.manual_seed(0)
    size = source.shape[1]
    layer: Any = orthogonal(nn.Linear(size, size, bias=False))
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    first = layer.weight.detach().clone()
    for _ in range(steps):
        optimizer.zero_grad()
        (layer(source) - target).square().mean().backward()
        optimizer.step()
    return first, layer.weight.detach().clone()
