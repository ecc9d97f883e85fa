from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache

import pytest
import torch

from ckptaudit.behavior.causal_models import CausalModel, open_model
from ckptaudit.behavior.scoring import Scored
from ckptaudit.checkpoints import merge_adapter, open_checkpoint
from tests.conftest import FIXTURES

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def bundled() -> Callable[[str], CausalModel]:
    """Bundled models by the names of their folders, each opened once."""
    base = open_checkpoint(FIXTURES / "base")

    @cache
    def opened(name: str) -> CausalModel:
        return open_model(merge_adapter(base, open_checkpoint(FIXTURES / name)), base, CPU)

    return opened


@pytest.fixture(scope="session")
def encoded() -> Callable[[str], list[Scored]]:
    """The bundled probe sets, tokens by transformers alone."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FIXTURES / "base")

    def scored(line: dict[str, str]) -> Scored:
        texts = [line["text"]] if "text" in line else [line["prompt"], line["completion"]]
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        return Scored(tuple(token for part in ids for token in part), 1 if len(ids) == 1 else len(ids[0]))

    @cache
    def of_set(name: str) -> list[Scored]:
        lines = (FIXTURES / "probes" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        return [scored(json.loads(line)) for line in lines]

    return of_set
