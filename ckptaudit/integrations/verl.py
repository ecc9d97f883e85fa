"""A recorder of rollouts for verl's RayPPOTrainer, whose dump has texts and scores only.

recorder = VerlRecorder("runs/42/rollouts").attach(trainer)
trainer.fit()
recorder.close()

Tried on the RayPPOTrainer, batches (DataProto) and advantages of verl 0.9.1, with stand-ins for its workers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ckptaudit.integrations.padded import padded_rows
from ckptaudit.integrations.recording import RolloutLog
from ckptaudit.rollouts.rows import prompt_hash

logger = logging.getLogger(__name__)


class VerlRecorder:
    """Writes the trainer's batch of each step as the canonical table, just before the actor is updated.

    The engine's log-probabilities are in it with `actor_rollout_ref.rollout.calculate_log_probs=True`. In bypass
    mode the old log-probabilities are copies of them, and mismatch cannot be judged.
    """

    def __init__(self, folder: str | Path, *, run: str = "") -> None:
        self.log = RolloutLog(folder, run=run)
        self._entropy: Any = None

    def attach(self, trainer: Any) -> VerlRecorder:
        """Put the recorder into a trainer, in the driver's process; returns itself."""
        self._trainer = trainer
        self._around("_compute_old_log_prob", self._with_entropy)
        self._around("_update_actor", self._with_update)
        return self

    def close(self) -> None:
        """Write what is waiting."""
        self.log.close()

    def _around(self, name: str, wrapper: Callable[..., Any]) -> None:
        original = getattr(self._trainer, name, None)
        if original is None:
            raise AttributeError(f"this version of verl has no {name}; record_batch can be called instead")
        setattr(self._trainer, name, lambda *args, **kwargs: wrapper(original, *args, **kwargs))

    def _with_entropy(self, original: Callable[..., Any], batch: Any, *args: Any, **kwargs: Any) -> Any:
        found = original(batch, *args, **kwargs)
        computed = found[0] if isinstance(found, tuple) else found
        self._entropy = computed.batch.get("entropys", None)
        return found

    def _with_update(self, original: Callable[..., Any], batch: Any, *args: Any, **kwargs: Any) -> Any:
        self.record_batch(batch, self._trainer.global_steps, self._entropy)
        self._entropy = None
        return original(batch, *args, **kwargs)

    def record_batch(self, batch: Any, step: int, entropy: Any = None) -> None:
        """Take a DataProto that has its advantages. What goes wrong is logged, never raised."""
        with self.log.timed():
            try:
                self.log.put(rows_of(batch, step, entropy))
            except Exception as error:  # whatever it is, hours of training must not be lost to it
                logger.warning("rollouts of a step are not recorded (%s: %s)", type(error).__name__, error)


def rows_of(batch: Any, step: int, entropy: Any = None) -> list[dict[str, Any]]:
    """Rows of a DataProto: prompts padded left, responses right, all by-token tensors of the responses' shape."""
    tensors, others = batch.batch, batch.non_tensor_batch
    responses, width = tensors["responses"], tensors["responses"].shape[-1]
    attended = tensors["attention_mask"].bool()
    columns = {
        "logp_rollout": tensors.get("rollout_log_probs", None),
        "logp_train": tensors.get("old_log_probs", None),
        "logp_ref": tensors.get("ref_log_prob", None),
        "advantages": tensors.get("advantages", None),
        "entropy": entropy,
    }
    rows = padded_rows(responses, attended[:, -width:], tensors["response_mask"], columns)
    rewards = tensors.get("token_level_rewards", tensors.get("token_level_scores", None))
    totals = [None] * len(rows) if rewards is None else rewards.double().sum(-1).tolist()
    groups = others.get("uid", [None] * len(rows))
    for place, row in enumerate(rows):
        prompt = tensors["prompts"][place][attended[place, :-width]].tolist()
        row.update(
            step=step,
            sample_id=f"{step}/{place}",
            group_id=None if groups[place] is None else str(groups[place]),
            prompt_hash=prompt_hash(prompt),
            prompt_len=len(prompt),
            truncated=row["response_len"] == width,
            reward=totals[place],
            logp_semantics="unknown",
        )
    return rows
