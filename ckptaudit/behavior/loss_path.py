"""The straight line between two models of one architecture, and the loss along it, by transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ckptaudit.behavior.probes import Probe, plain_parts
from ckptaudit.errors import MeasurementError, printable
from ckptaudit.pairing import ModelPair
from ckptaudit.pairing.matching.search import Matching

if TYPE_CHECKING:
    from collections.abc import Callable

POINTS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class LossPath:
    """Mean loss per token, in nats, at each point from base (0) to tuned (1)."""

    points: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def barrier(self) -> float:
        """max_t L(t) - ((1 - t) L(0) + t L(1)); the ends themselves make it at least 0."""
        first, last = self.losses[0], self.losses[-1]
        lifts = (loss - ((1 - t) * first + t * last) for t, loss in zip(self.points, self.losses, strict=True))
        return max(0.0, *lifts)


def loss_path(
    pair: ModelPair, probes: Sequence[Probe], matching: Matching | None, device: torch.device
) -> LossPath:
    """Losses along the line from the base to the tuned model, whose units `matching` puts in order first.

    The model is built from the base's config.json in float32 and never runs code that a checkpoint brings.
    Raises MeasurementError if transformers is missing, or the folder's model or tokenizer cannot be built.
    """
    model, encode = _built(pair, device)
    texts = [encode(probe) for probe in probes]
    losses = []
    for t in POINTS:
        _fill(model, pair, matching, t)
        losses.append(_mean_loss(model, texts, device))
    return LossPath(POINTS, tuple(losses))


def _built(pair: ModelPair, device: torch.device) -> tuple[Any, Callable[[Probe], tuple[Tensor, Tensor]]]:
    try:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise MeasurementError("the loss needs transformers: pip install transformers") from None
    folder = pair.base.path
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        build: Any = AutoModelForCausalLM.from_config
        model = build(config, trust_remote_code=False, dtype=torch.float32)
    except Exception as error:  # whatever transformers meets in a folder, the audit says so and goes on
        reason = printable(str(error).partition("\n")[0])
        raise MeasurementError(f"{printable(folder)}: transformers builds no model from it ({reason})") from error
    longest = getattr(config, "max_position_embeddings", None) or 2048

    def encode(probe: Probe) -> tuple[Tensor, Tensor]:
        # The two parts are encoded apart, so that the seam lies between tokens.
        prompt, completion = plain_parts(probe)
        silent = tokenizer(prompt)["input_ids"] if prompt else []
        judged = tokenizer(completion, add_special_tokens=not silent)["input_ids"]
        ids = [*silent, *judged][:longest]
        labels = [-100] * len(silent) + judged
        return torch.tensor([ids], device=device), torch.tensor([labels[:longest]], device=device)

    return model.eval().to(device), encode


def _fill(model: Any, pair: ModelPair, matching: Matching | None, t: float) -> None:
    """Write (1 - t) W0 + t W1 into the model, weight by weight."""
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in _between(pair, matching, t):
            if name in own and own[name].shape == weight.shape:
                own.pop(name).copy_(weight)
    if own:
        raise MeasurementError(
            f"the checkpoint has no weight for {printable(next(iter(own)))}, which the model has"
        )


def _between(pair: ModelPair, matching: Matching | None, t: float) -> Iterator[tuple[str, Tensor]]:
    for tensor in pair.aligned:
        base, tuned = tensor.base.read().double(), tensor.tuned.read().double()
        matched = tuned if matching is None else matching.matched(tensor, tuned)
        yield tensor.name, torch.lerp(base, matched, t)


def _mean_loss(model: Any, texts: Sequence[tuple[Tensor, Tensor]], device: torch.device) -> float:
    total, count = 0.0, 0
    for ids, labels in texts:
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1].double()
        wanted = labels[0, 1:]
        total += float(torch.nn.functional.cross_entropy(logits, wanted, ignore_index=-100, reduction="sum"))
        count += int((wanted != -100).sum())
    if not count:
        raise MeasurementError("the probes hold no token to judge")
    return total / count
