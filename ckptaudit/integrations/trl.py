"""A recorder of rollouts for TRL's GRPOTrainer, which keeps both log-probabilities in memory only.

trainer = GRPOTrainer(...)
recorder = TrlRecorder("runs/42/rollouts").attach(trainer)
trainer.train()
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ckptaudit.integrations.recording import RolloutLog
from ckptaudit.rollouts.readers.trl import text_of
from ckptaudit.rollouts.rows import prompt_hash

logger = logging.getLogger(__name__)

ROW = "ckptaudit_row"
"""The tensor that travels with a batch, so that shuffled and split samples are known again."""
_TOKENS = {
    "old_per_token_logps": "logp_train",
    "sampling_per_token_logps": "logp_rollout",
    "ref_per_token_logps": "logp_ref",
}


@dataclass
class Generation:
    """Samples of one generation: what is known at once, and what the loss adds row by row."""

    rows: list[dict[str, Any]]
    lengths: list[int]
    knows_old: bool
    added: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, int]] = field(default_factory=list)


class TrlRecorder(TrainerCallback):
    """Writes every sample that a GRPOTrainer trains on as the canonical table, in files of `folder`.

    The trainer's log-probabilities and entropies are those that its loss computes anyway, so no forward pass is
    added. The engine's are there where TRL has them: with use_vllm, or from a rollout_func. `texts` says whether
    prompts and answers are written beside the token ids. Every rank writes its own samples.
    """

    def __init__(self, folder: str | Path, *, run: str = "", texts: bool = True) -> None:
        self.log = RolloutLog(folder, run=run)
        self.texts = texts
        self._current: Generation | None = None
        self._rewards: torch.Tensor | None = None
        self._in_loss: torch.Tensor | None = None
        self._generations = 0

    @property
    def seconds(self) -> float:
        """Time that the training has spent here."""
        return self.log.seconds

    def attach(self, trainer: Any) -> TrlRecorder:
        """Put the recorder into a trainer; returns itself."""
        self._trainer = trainer
        self.log.rank = trainer.accelerator.process_index
        self._wrap("_calculate_rewards", self._with_rewards)
        self._wrap("_generate_and_score_completions", self._with_samples)
        self._wrap("_compute_loss", self._with_loss)
        self._wrap("_get_per_token_logps_and_entropies", self._with_logps)
        trainer.add_callback(self)
        return self

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write what is left."""
        self._finish()
        self.log.close()

    def _wrap(self, name: str, around: Callable[..., Any]) -> None:
        original = getattr(self._trainer, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return around(original, *args, **kwargs)

        setattr(self._trainer, name, wrapped)

    def _with_rewards(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._rewards = original(*args, **kwargs)
        return self._rewards

    def _with_samples(self, original: Callable[..., Any], inputs: Any, *args: Any, **kwargs: Any) -> Any:
        output = original(inputs, *args, **kwargs)
        if self._trainer.model.training:
            with self.log.timed():
                self._finish()
                self._begin(inputs, output)
        return output

    def _with_loss(self, original: Callable[..., Any], model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self._in_loss = inputs.get(ROW) if self._trainer.model.training else None
        try:
            return original(model, inputs, *args, **kwargs)
        finally:
            self._in_loss = None

    def _with_logps(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        if self._in_loss is not None and self._current is not None:
            with self.log.timed():
                logps, entropies = found[0].detach(), found[1]
                entropies = None if entropies is None else entropies.detach()
                self._current.added.append((self._in_loss, logps, entropies, self._trainer.state.global_step))
                self._in_loss = None  # the first pass of a loss is the policy's; a later one is not
        return found

    def _begin(self, inputs: Sequence[Mapping[str, Any]], output: dict[str, Any]) -> None:
        try:
            self._current = self._generation(inputs, output)
            count = len(output["completion_ids"])
            output[ROW] = torch.arange(count, device=output["completion_ids"].device)
        except Exception as error:  # whatever it is, hours of training must not be lost to it
            self._current = None
            logger.warning("rollouts of a step are not recorded (%s: %s)", type(error).__name__, error)

    def _generation(self, inputs: Sequence[Mapping[str, Any]], output: Mapping[str, Any]) -> Generation:
        prompts, answers = _unpadded(output, "prompt"), _unpadded(output, "completion")
        count, ends = len(answers), self._ends()
        semantics = "raw" if self._trainer.args.temperature == 1.0 else "temperature-scaled"
        known = zip(self._identities(count), self._rewards_by_row(count), strict=True)
        rows = [
            {
                **identity,
                **rewards,
                "prompt_hash": prompt_hash(prompt),
                "prompt_len": len(prompt),
                "response_len": len(answer),
                "truncated": not answer or answer[-1] not in ends,
                "advantage": advantage,
                "token_ids": answer,
                "logp_semantics": semantics,
            }
            for (identity, rewards), prompt, answer, advantage in zip(
                known, prompts, answers, _scalars(output["advantages"], count), strict=True
            )
        ]
        lengths = [len(answer) for answer in answers]
        for name, column in _TOKENS.items():
            _put(rows, column, output.get(name), lengths)
        _put(rows, "loss_mask", output.get("tool_mask", output["completion_mask"]).bool(), lengths)
        if self.texts:
            self._put_texts(rows, inputs, answers)
        return Generation(rows, lengths, knows_old=output.get("old_per_token_logps") is not None)

    def _identities(self, count: int) -> list[dict[str, Any]]:
        trainer, made = self._trainer, self._trainer.state.global_step
        self._generations += 1
        first = trainer.accelerator.process_index * count
        return [
            {
                "step": made + 1,
                "sample_id": f"{made}/{self._generations}/{place}",
                "group_id": f"{self._generations}/{place // trainer.num_generations}",
                "version_first": made,
                "version_last": made,
                "version_train": made,
            }
            for place in range(first, first + count)
        ]

    def _rewards_by_row(self, count: int) -> list[dict[str, Any]]:
        """The weighted sum and the components of each sample; what a function did not score is left out."""
        assert self._rewards is not None  # rewards are made within the generation that has just ended
        first = self._trainer.accelerator.process_index * count
        names, weights = self._trainer.reward_func_names, self._trainer.reward_weights.tolist()
        rows = []
        for values in self._rewards[first : first + count].tolist():
            scored = [(n, v, w) for n, v, w in zip(names, values, weights, strict=True) if not math.isnan(v)]
            total = sum(value * weight for _, value, weight in scored) if scored else None
            rows.append({"reward": total, "rewards": [(name, value) for name, value, _ in scored] or None})
        return rows

    def _ends(self) -> set[int]:
        tokenizer = getattr(self._trainer, "_tokenizer", self._trainer.processing_class)
        ends = getattr(self._trainer, "eos_token_ids", None) or [tokenizer.eos_token_id]
        return {*ends, tokenizer.pad_token_id}

    def _put_texts(
        self, rows: list[dict[str, Any]], inputs: Sequence[Mapping[str, Any]], answers: list[list[int]]
    ) -> None:
        texts = self._trainer.processing_class.batch_decode(answers, skip_special_tokens=True)
        for row, example, text in zip(rows, inputs, texts, strict=True):
            row["prompt"], row["response"] = text_of(example["prompt"]), text

    def _finish(self) -> None:
        """Hand the last generation over to be written, with what the loss has added."""
        generation, self._current = self._current, None
        if generation is None:
            return
        seen: set[int] = set()
        for places, logps, entropies, version in generation.added:
            fresh = [(i, place) for i, place in enumerate(places.tolist()) if place not in seen]
            seen.update(place for _, place in fresh)
            _add(generation, fresh, logps, entropies, version)
        self.log.put(sorted(generation.rows, key=lambda row: row["step"]))


def _unpadded(output: Mapping[str, Any], name: str) -> list[list[int]]:
    ids, mask = output[f"{name}_ids"].cpu(), output[f"{name}_mask"].bool().cpu()
    return [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)]


def _scalars(advantages: torch.Tensor, count: int) -> list[float | None]:
    """One advantage a sample; None where a trainer has one for each token."""
    return advantages.double().cpu().tolist() if advantages.dim() == 1 else [None] * count


def _put(rows: list[dict[str, Any]], column: str, values: torch.Tensor | None, lengths: list[int]) -> None:
    """Rows of a right-padded tensor, cut to each answer's length."""
    if values is not None:
        array = values.cpu().numpy() if values.dtype == torch.bool else values.float().cpu().numpy()
        for row, entries, length in zip(rows, array, lengths, strict=True):
            row[column] = entries[:length]


def _add(
    generation: Generation,
    fresh: list[tuple[int, int]],
    logps: torch.Tensor,
    entropies: torch.Tensor | None,
    version: int,
) -> None:
    # Where TRL keeps no old log-probabilities, those of the first pass are the old ones.
    column = "logp_new" if generation.knows_old else "logp_train"
    found = logps.float().cpu().numpy()
    entropy = None if entropies is None else entropies.float().cpu().numpy()
    for i, place in fresh:
        row, length = generation.rows[place], generation.lengths[place]
        row[column] = found[i, :length]
        if entropy is not None:
            row["entropy"] = entropy[i, :length]
        row["step"], row["version_train"] = version + 1, version
