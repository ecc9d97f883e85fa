"""Checkpoints of hundreds of gigabytes by their headers alone: sparse files, of which only the headers take room.

The tensors are those of DeepSeek-V3: 61 layers, 58 of them with 256 routed experts each, in float8 with scales for
blocks of 128 x 128, about 650 GB a side. Nothing but zeros is in them; planning reads no more than the headers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path

SHARD_BYTES = 4_300_000_000
BLOCK = 128

Shape = tuple[int, ...]
Tensors = Iterator[tuple[str, str, Shape]]

SIZES = {"F8_E4M3": 1, "BF16": 2, "F32": 4}


@dataclass(frozen=True)
class Giant:
    """Sizes of a mixture of experts with latent attention; the defaults are those of DeepSeek-V3."""

    layers: int = 61
    dense: int = 3
    experts: int = 256
    hidden: int = 7168
    intermediate: int = 18432
    expert: int = 2048
    heads: int = 128
    query_rank: int = 1536
    value_rank: int = 512
    vocabulary: int = 129_280

    def tensors(self) -> Tensors:
        """Name, type and shape of every tensor, in the order in which they are stored."""
        yield "model.embed_tokens.weight", "BF16", (self.vocabulary, self.hidden)
        for layer in range(self.layers):
            yield from self._layer(f"model.layers.{layer}.", layer >= self.dense)
        yield "model.norm.weight", "BF16", (self.hidden,)
        yield "lm_head.weight", "BF16", (self.vocabulary, self.hidden)

    def _layer(self, name: str, has_experts: bool) -> Tensors:
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{name}{norm}.weight", "BF16", (self.hidden,)
        yield from self._attention(f"{name}self_attn.")
        if not has_experts:
            yield from _gated(f"{name}mlp.", self.hidden, self.intermediate)
            return
        yield f"{name}mlp.gate.weight", "BF16", (self.experts, self.hidden)
        yield f"{name}mlp.gate.e_score_correction_bias", "F32", (self.experts,)
        yield from _gated(f"{name}mlp.shared_experts.", self.hidden, self.expert)
        for expert in range(self.experts):
            yield from _gated(f"{name}mlp.experts.{expert}.", self.hidden, self.expert)

    def _attention(self, name: str) -> Tensors:
        yield f"{name}q_a_layernorm.weight", "BF16", (self.query_rank,)
        yield f"{name}kv_a_layernorm.weight", "BF16", (self.value_rank,)
        yield from _scaled(f"{name}q_a_proj", (self.query_rank, self.hidden))
        yield from _scaled(f"{name}q_b_proj", (self.heads * 192, self.query_rank))
        yield from _scaled(f"{name}kv_a_proj_with_mqa", (self.value_rank + 64, self.hidden))
        yield from _scaled(f"{name}kv_b_proj", (self.heads * 256, self.value_rank))
        yield from _scaled(f"{name}o_proj", (self.hidden, self.heads * 128))


def write(model: Giant, folder: Path) -> int:
    """Write one side below `folder`; returns the bytes that it claims to have."""
    folder.mkdir(parents=True)
    shards = list(_shards(model.tensors()))
    places: dict[str, str] = {}
    for number, tensors in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):06}.safetensors"
        _write_sparse(folder / file, tensors)
        places |= {name: file for name, _, _ in tensors}
    total = sum(_bytes(dtype, shape) for tensors in shards for _, dtype, shape in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(_config(model)))
    return total


def _scaled(name: str, shape: Shape) -> Tensors:
    yield f"{name}.weight", "F8_E4M3", shape
    yield f"{name}.weight_scale_inv", "F32", tuple(ceil(size / BLOCK) for size in shape)


def _gated(name: str, hidden: int, inner: int) -> Tensors:
    yield from _scaled(f"{name}gate_proj", (inner, hidden))
    yield from _scaled(f"{name}up_proj", (inner, hidden))
    yield from _scaled(f"{name}down_proj", (hidden, inner))


def _shards(tensors: Tensors) -> Iterator[list[tuple[str, str, Shape]]]:
    shard: list[tuple[str, str, Shape]] = []
    held = 0
    for tensor in tensors:
        size = _bytes(*tensor[1:])
        if shard and held + size > SHARD_BYTES:
            yield shard
            shard, held = [], 0
        shard.append(tensor)
        held += size
    yield shard


def _write_sparse(path: Path, tensors: list[tuple[str, str, Shape]]) -> None:
    header, at = {}, 0
    for name, dtype, shape in tensors:
        end = at + _bytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)


def _bytes(dtype: str, shape: Shape) -> int:
    return SIZES[dtype] * prod(shape)


def _config(model: Giant) -> dict[str, object]:
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "first_k_dense_replace": model.dense,
        "hidden_size": model.hidden,
        "intermediate_size": model.intermediate,
        "kv_lora_rank": model.value_rank,
        "moe_intermediate_size": model.expert,
        "n_routed_experts": model.experts,
        "n_shared_experts": 1,
        "num_attention_heads": model.heads,
        "num_hidden_layers": model.layers,
        "num_key_value_heads": model.heads,
        "q_lora_rank": model.query_rank,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "quantization_config": {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [BLOCK, BLOCK],
        },
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "v_head_dim": 128,
        "vocab_size": model.vocabulary,
    }


if __name__ == "__main__":
    for side in ("base", "tuned"):
        print(f"{side}: {write(Giant(), Path(sys.argv[1]) / side):,} bytes")
