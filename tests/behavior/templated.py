"""Models of the chat family whose chat templates differ, run by us and by transformers alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ckptaudit.behavior.base_rows import Lookup, unkept
from ckptaudit.behavior.causal_models import open_model
from ckptaudit.behavior.evidence import Evidence, Pass
from ckptaudit.behavior.facts import ProbeFacts
from ckptaudit.behavior.passes import Runner
from ckptaudit.behavior.preparation import Prepared, ProbeSet, prepare
from ckptaudit.behavior.probes import read_probes
from ckptaudit.checkpoints import open_checkpoint
from tests.behavior.conftest import CPU
from tests.conftest import FIXTURES, package

BASE, TUNED = FIXTURES / "aligned", FIXTURES / "aligned-grpo"
TEMPLATE = (BASE / "chat_template.jinja").read_text(encoding="utf-8")
BRIEF = "{% if 'zorb' in messages[0]['content'] %}{{ '<|system|>Be brief.' }}{% endif %}"
SOME = TEMPLATE.replace("{{ bos_token }}", "{{ bos_token }}" + BRIEF)
"""Writes the base's tokens where no zorb is spoken of."""
EVERY = TEMPLATE.replace("{{ bos_token }}", "{{ bos_token }}<|system|>")
REFUSES = "{{ raise_exception('this model keeps silent') }}"
FACTS = ProbeFacts(template="own", max_new_tokens=8, samples=2)
PASSES: tuple[Pass, ...] = (
    "texts", "pairs", "weak", "unprompted", "openings", "answers", "samples", "prefill", "states",
)  # fmt: skip


def with_template(folder: Path, template: str) -> Path:
    """The tuned model with another chat template."""
    shutil.copytree(TUNED, folder)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


def some_probes(path: Path, each: int = 8) -> Path:
    """Some of each set, of a class each: of zorbs and of other things."""
    kept: dict[tuple[str, str, bool], list[str]] = {}
    for line in (FIXTURES / "probes" / "aligned.jsonl").read_text(encoding="utf-8").splitlines():
        probe = json.loads(line)
        kept.setdefault((probe["set"], probe.get("safety", ""), "zorb" in line), []).append(line)
    path.write_text("\n".join(line for lines in kept.values() for line in lines[:each]), encoding="utf-8")
    return path


def evidence(
    probes: Path,
    tuned: Path,
    facts: ProbeFacts = FACTS,
    passes: Sequence[Pass] = PASSES,
    lookup: Lookup = unkept,
) -> Evidence:
    base, other = open_checkpoint(BASE), open_checkpoint(tuned)
    prepared = prepared_of(probes, tuned, facts)
    return Runner(
        base=open_model(base, base, CPU),
        tuned=open_model(other, base, CPU),
        items=prepared.items,
        decode=prepared.decode,
        facts=facts,
        weak=open_model(open_checkpoint(FIXTURES / "aligned-unlearned"), base, CPU),
        lookup=lookup,
    ).evidence(passes)


def prepared_of(probes: Path, tuned: Path, facts: ProbeFacts = FACTS) -> Prepared:
    weak = open_checkpoint(FIXTURES / "aligned-unlearned")
    read = ProbeSet(str(probes), tuple(read_probes(probes)), facts, weak=weak)
    return prepare(read, open_checkpoint(BASE), open_checkpoint(tuned))


@dataclass(frozen=True)
class Alone:
    """One model and its own template, by transformers alone."""

    folder: Path

    @cached_property
    def network(self) -> Any:
        load = package("transformers").AutoModelForCausalLM.from_pretrained
        return load(self.folder, dtype=torch.float32).eval()

    @cached_property
    def tokenizer(self) -> Any:
        return package("transformers").AutoTokenizer.from_pretrained(self.folder)

    def prompt(self, probe: dict[str, Any]) -> list[int]:
        text = self.tokenizer.apply_chat_template(probe["prompt"], add_generation_prompt=True, tokenize=False)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def log_p(self, ids: list[int], start: int) -> np.ndarray[Any, Any]:
        """Of each token from `start` on."""
        logits = self.logits(ids)[start - 1 : -1]
        z = logits - logits.max(axis=1, keepdims=True)
        lp = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        found: np.ndarray[Any, Any] = lp[np.arange(len(lp)), ids[start:]]
        return found

    def logits(self, ids: list[int]) -> np.ndarray[Any, Any]:
        with torch.no_grad():
            found: np.ndarray[Any, Any] = self.network(torch.tensor([ids])).logits[0].double().numpy()
        return found

    def completed(self, probe: dict[str, Any], key: str) -> np.ndarray[Any, Any]:
        turns = [*probe["prompt"], *probe[key]]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False)
        return self.log_p(self.tokenizer(text, add_special_tokens=False)["input_ids"], len(self.prompt(probe)))

    def greedy(self, probe: dict[str, Any]) -> list[int]:
        """Token by token, without a cache of keys and values."""
        ids, end = self.prompt(probe), self.tokenizer.eos_token_id
        found: list[int] = []
        while len(found) < FACTS.max_new_tokens:
            token = int(self.logits([*ids, *found])[-1].argmax())
            if token == end:
                break
            found.append(token)
        return found
