"""A release in memory: tensors and the documents beside them, to be damaged and written to a folder."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FIXTURES = Path(__file__).parent.parent.parent / "fixtures"

HYBRID_NOISE = 1e-3
"""Relative size of the update of the synthetic pair."""

State = dict[str, Tensor]


@dataclass
class Release:
    """Tensors by name and JSON documents by file name."""

    state: State
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)

    def copy(self) -> Release:
        """One that can be damaged: documents are new, tensors shared, since a damage replaces what it changes."""
        return Release(dict(self.state), deepcopy(self.documents))

    def differs(self, other: Release) -> bool:
        """Whether any tensor, type or document is another."""
        if self.documents != other.documents or self.state.keys() != other.state.keys():
            return True
        return any(not _same(tensor, other.state[name]) for name, tensor in self.state.items())

    @property
    def config(self) -> dict[str, Any]:
        """config.json."""
        return self.documents["config.json"]

    def write(self, folder: Path) -> Path:
        """Everything to a folder, in place of what was there."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        apart = {name: tensor.clone().contiguous() for name, tensor in self.state.items()}
        save_file(apart, folder / "model.safetensors", metadata={"format": "pt"})
        for name, document in self.documents.items():
            (folder / name).write_text(json.dumps(document, indent=2))
        return folder


@dataclass(frozen=True)
class Pair:
    """A base and a healthy release of it; `trained` says whether losses mean anything."""

    name: str
    base: Release
    tuned: Release
    trained: bool


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.dtype == other.dtype and torch.equal(one, other))


def read(folder: Path, documents: Path) -> Release:
    """A bundled checkpoint, with the documents that lie beside another one."""
    beside = {path.name: json.loads(path.read_text()) for path in sorted(documents.glob("*.json"))}
    return Release(load_file(folder / "model.safetensors"), beside)


def bundled_pair(run: str = "rlvr-gentle") -> Pair:
    """The bundled base and a run, as a release has it: tokenizer and generation settings included."""
    base = FIXTURES / "base"
    return Pair(run, read(base, base), read(FIXTURES / run, base), trained=True)


def hybrid_pair() -> Pair:
    """A small model with routers, experts and state space, random, and a dense update of the usual size."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config, build = AutoConfig.for_model("granitemoehybrid", **HYBRID), cast(Any, AutoModelForCausalLM)
    torch.manual_seed(0)
    model = build.from_config(config, dtype=torch.bfloat16)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.Generator().manual_seed(1)
    tuned = {name: _stepped(tensor, random) for name, tensor in base.items()}
    documents = {"config.json": json.loads(config.to_json_string(use_diff=False))}
    documents["config.json"]["architectures"] = ["GraniteMoeHybridForCausalLM"]
    return Pair("hybrid", Release(base, documents), Release(tuned, deepcopy(documents)), trained=False)


def _stepped(weight: Tensor, random: torch.Generator) -> Tensor:
    if weight.ndim < 2:
        return weight.clone()
    noise = torch.randn(weight.shape, generator=random)
    size = HYBRID_NOISE * float(weight.float().norm()) / float(noise.norm())
    # The norm is that before rounding, most of which rounding takes away.
    return (weight.float() + size * noise).to(weight.dtype)


HYBRID: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "shared_intermediate_size": 24,
    "num_hidden_layers": 4,
    "layer_types": ["mamba", "attention", "mamba", "attention"],
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "tie_word_embeddings": False,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
