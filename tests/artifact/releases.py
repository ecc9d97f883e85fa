"""Small releases on disk: a base with everything beside it, and a tuned copy that a test then damages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ckptaudit.artifact import QUANTITIES, open_artifact
from ckptaudit.artifact.facts import ArtifactEvidence
from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.findings import Finding

LAYERS, HIDDEN, ROWS, MIDDLE, HEADS, KV_HEADS = 3, 16, 24, 40, 4, 2
State = dict[str, torch.Tensor]

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": HIDDEN, "vocab_size": ROWS,
    "intermediate_size": MIDDLE, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS, "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "dtype": "bfloat16",
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "sliding_window": None,
    "use_sliding_window": False, "layer_types": ["full_attention"] * LAYERS, "hidden_act": "silu",
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "transformers_version": "5.24.0",
}  # fmt: skip
WORDS = ["<pad>", "<bos>", "<eos>", "<unk>", *"abcdefghijklmnop"]
TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [{"id": i, "content": word, "special": True} for i, word in enumerate(WORDS[:4])],
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated"},
    "decoder": {"type": "Fuse"},
    "model": {"type": "BPE", "vocab": {word: i for i, word in enumerate(WORDS)}, "merges": ["a b", "c d"]},
}
TOKENIZER_CONFIG = {
    "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>",
    "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
}  # fmt: skip
GENERATION = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "transformers_version": "5.24.0"}


def weights(seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> State:
    """Tensors of the model that CONFIG describes."""
    generator = torch.Generator().manual_seed(seed)
    size = HIDDEN // HEADS
    shapes = {"model.embed_tokens.weight": (ROWS, HIDDEN), "lm_head.weight": (ROWS, HIDDEN)}
    for i in range(LAYERS):
        at = f"model.layers.{i}"
        shapes |= {
            f"{at}.self_attn.q_proj.weight": (HEADS * size, HIDDEN),
            f"{at}.self_attn.k_proj.weight": (KV_HEADS * size, HIDDEN),
            f"{at}.self_attn.v_proj.weight": (KV_HEADS * size, HIDDEN),
            f"{at}.mlp.up_proj.weight": (MIDDLE, HIDDEN),
            f"{at}.mlp.down_proj.weight": (HIDDEN, MIDDLE),
        }
    drawn = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    return drawn | {"model.norm.weight": torch.ones(HIDDEN, dtype=dtype)}


class Release:
    """One folder that a test can change, file by file."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.state = weights(seed)
        self.config = json.loads(json.dumps(CONFIG))
        self.tokenizer = json.loads(json.dumps(TOKENIZER))
        self.tokenizer_config: dict[str, Any] = dict(TOKENIZER_CONFIG)
        self.generation: dict[str, Any] = dict(GENERATION)

    def write(self) -> Path:
        """Everything to disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state, self.folder / "model.safetensors")
        for name, contents in self._documents().items():
            self.put(name, contents)
        return self.folder

    def put(self, name: str, contents: Mapping[str, object]) -> None:
        """One JSON file."""
        (self.folder / name).write_text(json.dumps(contents))

    def _documents(self) -> dict[str, dict[str, Any]]:
        return {
            "config.json": self.config,
            "tokenizer.json": self.tokenizer,
            "tokenizer_config.json": self.tokenizer_config,
            "generation_config.json": self.generation,
        }


class Pair:
    """A base and a tuned copy with other numbers."""

    def __init__(self, folder: Path) -> None:
        self.base, self.tuned = Release(folder / "base", 0), Release(folder / "tuned", 1)

    def open(self) -> ArtifactEvidence:
        """The evidence of what is on disk now; folders that were not written yet are."""
        for side in (self.base, self.tuned):
            if not side.folder.exists():
                side.write()
        return evidence_of(self.base.folder, self.tuned.folder)

    def findings(self) -> dict[str, tuple[Finding, ...]]:
        """What every quantity finds, by its name; silent ones are left out."""
        return findings_of(self.open())


def evidence_of(base: Path, tuned: Path) -> ArtifactEvidence:
    """The evidence of two folders."""
    return open_artifact(open_checkpoint(base), open_checkpoint(tuned))


def findings_of(evidence: ArtifactEvidence) -> dict[str, tuple[Finding, ...]]:
    """What every quantity finds, by its name; silent ones are left out."""
    found = {name: function(evidence) for name, function in QUANTITIES.items()}
    return {name: own for name, own in found.items() if own}


def only(found: Mapping[str, tuple[Finding, ...]], quantity: str) -> tuple[Finding, ...]:
    """The findings of a quantity, which must be the only one that found any."""
    assert list(found) == [quantity], found
    return found[quantity]
