"""Names that a release gives its files; where a web server lists nothing, these are asked for one by one."""

from __future__ import annotations

JSON_NAMES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "chat_template.json", "adapter_config.json",
)  # fmt: skip
TEXT_NAMES = ("chat_template.jinja", "vocab.txt", "merges.txt")
BINARY = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "source.spm", "target.spm", "tekken.json")
BINARY_ENDINGS = (".tiktoken",)
LOADED = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""What transformers looks for in a folder, in its order; the first that is there is loaded."""

ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
TRAINING = ("trainer_state.json", "scheduler.pt", "optimizer.pt", "optimizer.bin")
KNOWN = (*JSON_NAMES, *TEXT_NAMES, *BINARY, *LOADED, *ADAPTERS, *TRAINING)
