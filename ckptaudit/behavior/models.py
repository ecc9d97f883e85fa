"""A causal language model that transformers builds from a local folder, as losses and gradients."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.functional import cross_entropy

from ckptaudit.behavior.probes import Probe, plain_parts
from ckptaudit.errors import CollectionError, parameter, printable

UNSCORED = -100
"""The label that cross-entropy leaves out."""


@dataclass(frozen=True)
class Sample:
    """A probe's tokens; those from `first` on are scored, each given what stands before it."""

    line: int
    tokens: tuple[int, ...]
    first: int


class LanguageModel:
    """Gradients of samples' losses, without dropout, in the model's own precision."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._attention = model.config._attn_implementation
        self.weights: dict[str, Tensor] = dict(model.named_parameters())
        """By name; weights that are tied are one, under the first of their names."""

    def sample(self, probe: Probe, *, max_length: int) -> Sample:
        """A probe's first tokens. Raises CollectionError if none of them is scored."""
        text, completion_text = plain_parts(probe)
        prompt = self._tokens(text) if text else []
        completion = self._tokens(completion_text, special=not prompt)
        sample = Sample(probe.line, tuple((prompt + completion)[:max_length]), max(1, len(prompt)))
        if len(sample.tokens) <= sample.first:
            raise CollectionError(
                f"{parameter('probes')}, line {probe.line}: no token to score within the first "
                f"{max_length}; lengthen the text or raise {parameter('max_length')}."
            )
        return sample

    def gradients(
        self, samples: Sequence[Sample], weights: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[float]]:
        """Each sample's loss in nats, and its gradient by each weight, `[samples, *shape]`.

        The loss is the mean negative log-likelihood of the scored tokens. The gradient is zero for a weight that
        took no part. Several samples are padded on the right and taken in one pass; whatever torch or transformers
        raises there is let through. Raises CollectionError for what is not finite.
        """
        gradients, losses = self._alone(samples[0], weights) if len(samples) == 1 else self._batch(samples, weights)
        for sample, loss in zip(samples, losses.tolist(), strict=True):
            if not bool(torch.isfinite(torch.tensor(loss))):
                raise CollectionError(
                    f"{parameter('probes')}, line {sample.line}: the model's loss is {loss}; check the model."
                )
        broken = next((name for name, g in gradients.items() if not _finite(g)), None)
        if broken is not None:
            raise CollectionError(f"the gradient of {printable(broken)} is not finite; check the model.")
        return gradients, losses.tolist()

    def bytes_of(self, sample: Sample, weights: Mapping[str, Tensor]) -> int:
        """About what a sample takes in a batch: its gradients, attention's scores, hidden states and logits.

        An estimate from the configuration, with what a model does not tell counted as nothing.
        """
        config, length = self._model.config.get_text_config(), len(sample.tokens)
        layers, heads, width, words = (
            getattr(config, name, None) or 0
            for name in ("num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size")
        )
        # Some three copies of the scores, thirty vectors a token and layer, and four of the logits stand until the
        # backward pass.
        passed = layers * length * (3 * heads * length + 30 * width) + 4 * length * words
        return 4 * (sum(weight.numel() for weight in weights.values()) + int(passed))

    def _alone(self, sample: Sample, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        self._attend(self._attention)
        tokens = torch.tensor([sample.tokens], device=self._model.device)
        logits = self._model(input_ids=tokens, use_cache=False).logits[0, sample.first - 1 : -1]
        loss = cross_entropy(_at_least_float32(logits), tokens[0, sample.first :])
        found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        gradients = {
            name: (torch.zeros_like(weight) if gradient is None else gradient)[None]
            for (name, weight), gradient in zip(weights.items(), found, strict=True)
        }
        return gradients, loss.detach()[None]

    def _batch(self, samples: Sequence[Sample], weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        # The other ways to attend look at the mask's values, which a vectorised pass cannot.
        self._attend("eager")

        def loss_of_one(chosen: dict[str, Tensor], tokens: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
            given = {"input_ids": tokens[None], "attention_mask": mask[None], "use_cache": False}
            logits = functional_call(self._model, chosen, (), given).logits[0, :-1]
            return cross_entropy(_at_least_float32(logits), labels[1:], ignore_index=UNSCORED)

        chosen = {name: weight.detach() for name, weight in weights.items()}
        one = grad_and_value(loss_of_one)
        # Without a graph around the vectorised one, which nothing would ever go back through.
        with torch.no_grad(), warnings.catch_warnings():
            # Operations that torch repeats for each sample are no news to whoever asked for gradients.
            warnings.filterwarnings("ignore", message="There is a performance drop")
            gradients, losses = vmap(one, in_dims=(None, 0, 0, 0))(chosen, *_padded(samples, self._model.device))
        return gradients, losses

    def _attend(self, implementation: str) -> None:
        if self._model.config._attn_implementation != implementation:
            self._model.set_attn_implementation(implementation)

    def _tokens(self, text: str, *, special: bool = True) -> list[int]:
        tokens: list[int] = self._tokenizer(text, add_special_tokens=special)["input_ids"]
        return tokens


def _padded(samples: Sequence[Sample], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, attention mask and labels, `[samples, longest]`, padded on the right where nothing looks."""
    shape = (len(samples), max(len(sample.tokens) for sample in samples))
    tokens, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, UNSCORED)
    for row, sample in enumerate(samples):
        length = len(sample.tokens)
        tokens[row, :length] = torch.tensor(sample.tokens)
        mask[row, :length] = 1
        labels[row, sample.first : length] = tokens[row, sample.first : length]
    return tokens.to(device), mask.to(device), labels.to(device)


def _finite(tensor: Tensor) -> bool:
    """The same as `isfinite().all()` in one pass over the memory: NaN goes through to both extremes."""
    return not tensor.numel() or all(bool(extreme.isfinite()) for extreme in tensor.aminmax())


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def load_model(path: str, device: str) -> LanguageModel:
    """The model and tokenizer of a local folder, in float32; no code of its own is run. Raises CollectionError."""
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
        raise CollectionError(
            f"{parameter('model')} {printable(path)}: cannot be loaded ({printable(text)[:300]})."
        ) from error
