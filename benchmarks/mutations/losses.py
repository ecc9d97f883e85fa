"""What a damage does to the model: mean loss on the bundled probes, by transformers."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.mutations.release import FIXTURES, Release

PROBES = FIXTURES / "probes"

Batch = tuple[Tensor, Tensor]
"""Token numbers, padded on the right, and which of them are scored."""


def losses(release: Release) -> tuple[float, float] | None:
    """Nats per scored token on task and retain probes; None for a release that transformers does not load."""
    try:
        model = _model(release)
        return _loss(model, *_batch("task")), _loss(model, *_batch("retain"))
    except Exception:  # whatever is wrong with it, it has no loss
        return None


def _model(release: Release) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {key: value for key, value in release.config.items() if key not in ("architectures", "dtype")}
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    model = cast(Any, AutoModelForCausalLM).from_config(config, dtype=torch.float32)
    wanted = model.state_dict()
    given = {name: tensor.float() for name, tensor in release.state.items() if name in wanted}
    if given.keys() != wanted.keys() and not config.tie_word_embeddings:
        raise ValueError("transformers would make up what is missing")
    model.load_state_dict(given, strict=False)
    model.tie_weights()
    return model.eval()


def _loss(model: Any, tokens: Tensor, scored: Tensor) -> float:
    with torch.no_grad():
        logits = model(input_ids=tokens, attention_mask=(tokens != 0).long()).logits[:, :-1].float()
    nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return float(nats.view_as(scored[:, 1:])[scored[:, 1:]].mean())


@cache
def _batch(name: str) -> Batch:
    encode = _encoder()
    rows: list[tuple[list[int], int]] = []
    for line in (PROBES / f"{name}.jsonl").read_text().splitlines():
        probe = json.loads(line)
        prompt = encode(probe["prompt"]) if "prompt" in probe else []
        rows.append((prompt + encode(probe.get("completion") or probe["text"]), max(1, len(prompt))))
    width = max(len(tokens) for tokens, _ in rows)
    tokens, scored = (
        torch.zeros(len(rows), width, dtype=torch.long),
        torch.zeros(len(rows), width, dtype=torch.bool),
    )
    for row, (numbers, start) in enumerate(rows):
        tokens[row, : len(numbers)] = torch.tensor(numbers)
        scored[row, start : len(numbers)] = True
    return tokens, scored


def _encoder() -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(FIXTURES / "base" / "tokenizer.json")))
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids
