"""A causal language model that transformers builds from a local folder, as losses and gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ckptaudit.collect.probes import Probe
from ckptaudit.errors import CollectionError, printable


class LanguageModel:
    """Losses of probes and their gradients, in float32 and without dropout."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self.weights: dict[str, Tensor] = dict(model.named_parameters())
        """By name; weights that are tied are one, under the first of their names."""

    def loss(self, probe: Probe, *, max_length: int) -> Tensor:
        """Mean negative log-likelihood of the scored tokens, in nats. Raises CollectionError if there are none."""
        prompt = self._tokens(probe.prompt) if probe.prompt else []
        completion = self._tokens(probe.completion, special=not prompt)
        tokens = torch.tensor([(prompt + completion)[:max_length]], device=self._model.device, dtype=torch.long)
        first = max(1, len(prompt))
        if tokens.shape[1] <= first:
            raise CollectionError(
                f"--data, line {probe.line}: no token to score within the first {max_length}; lengthen the text "
                "or raise --max-length."
            )
        logits = self._model(input_ids=tokens, use_cache=False).logits[0, first - 1 : -1].float()
        loss: Tensor = torch.nn.functional.cross_entropy(logits, tokens[0, first:])
        if not bool(loss.isfinite()):
            raise CollectionError(f"--data, line {probe.line}: the model's loss is {float(loss)}; check the model.")
        return loss

    def gradients(self, loss: Tensor, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss's gradient by each weight, zero for a weight that took no part. Raises CollectionError."""
        found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        gradients = {
            name: torch.zeros_like(weight) if gradient is None else gradient
            for (name, weight), gradient in zip(weights.items(), found, strict=True)
        }
        broken = next((name for name, g in gradients.items() if not bool(g.isfinite().all())), None)
        if broken is not None:
            raise CollectionError(f"the gradient of {printable(broken)} is not finite; check the model.")
        return gradients

    def _tokens(self, text: str, *, special: bool = True) -> list[int]:
        tokens: list[int] = self._tokenizer(text, add_special_tokens=special)["input_ids"]
        return tokens


def load_model(path: str, device: str) -> LanguageModel:
    """The model and tokenizer of a local folder; no code of its own is run. Raises CollectionError."""
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging
    except ImportError:
        raise CollectionError(
            "collecting needs transformers; install it with pip install 'ckptaudit[collect]'."
        ) from None
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    safe = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **safe)
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, use_safetensors=True, **safe)
        return LanguageModel(model.to(device), tokenizer)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AssertionError, ImportError) as error:
        text = " ".join(str(error).split())
        raise CollectionError(f"--model {printable(path)}: cannot be loaded ({printable(text)[:300]}).") from error
