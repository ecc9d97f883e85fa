"""A recorder of rollouts for OpenRLHF, which keeps its experiences in memory.

recorder = OpenRlhfRecorder("runs/42/rollouts").attach(trainer.experience_maker)
trainer.fit()
recorder.close()

Tried on the RemoteExperienceMaker and Experience of OpenRLHF 0.11.2, with stand-ins for its models.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ckptaudit.integrations.padded import from_first_to_last, padded_rows
from ckptaudit.integrations.recording import RolloutLog
from ckptaudit.rollouts.rows import prompt_hash

logger = logging.getLogger(__name__)


class OpenRlhfRecorder:
    """Writes each batch of experiences as the canonical table, in the process that makes them.

    A step is a batch of experiences, counted from 1; `samples_per_prompt` is rollout.n_samples_per_prompt.
    """

    def __init__(self, folder: str | Path, *, samples_per_prompt: int, run: str = "", first_step: int = 1) -> None:
        self.log = RolloutLog(folder, run=run)
        self.samples_per_prompt = samples_per_prompt
        self._step = first_step

    def attach(self, maker: Any) -> OpenRlhfRecorder:
        """Put the recorder into a RemoteExperienceMaker; returns itself."""
        original = maker.make_experience_batch

        def recorded(*args: Any, **kwargs: Any) -> Any:
            experiences = original(*args, **kwargs)
            self.record(experiences)
            return experiences

        maker.make_experience_batch = recorded
        return self

    def close(self) -> None:
        """Write what is waiting."""
        self.log.close()

    def record(self, experiences: Sequence[Any]) -> None:
        """Take experiences that have their advantages. What goes wrong is logged, never raised."""
        with self.log.timed():
            try:
                rows = [row for experience in experiences for row in rows_of(experience, self._step)]
                for row in rows:
                    row["group_id"] = f"{self._step}/{int(row.pop('index')) // self.samples_per_prompt}"
                self.log.put(rows)
            except Exception as error:  # whatever it is, hours of training must not be lost to it
                logger.warning("rollouts of a step are not recorded (%s: %s)", type(error).__name__, error)
            self._step += 1


def rows_of(experience: Any, step: int) -> list[dict[str, Any]]:
    """Rows of an Experience; the last columns of its sequences are the actions that its lists are about."""
    mask = experience.action_mask.bool()
    width = mask.shape[-1]
    columns = {
        "logp_rollout": experience.rollout_log_probs,
        "logp_train": experience.action_log_probs,
        "logp_ref": experience.base_action_log_probs,
        "advantages": experience.advantages,
    }
    rows = padded_rows(experience.sequences[:, -width:], from_first_to_last(mask), mask, columns)
    before = experience.attention_mask.bool().clone()
    before[:, -width:] &= (mask.long().cumsum(-1) == 0).to(before.device)
    for place, row in enumerate(rows):
        prompt = experience.sequences[place][before[place]].tolist()
        truncated = experience.truncated
        row.update(
            step=step,
            index=experience.index[place],
            sample_id=f"{step}/{experience.index[place]}",
            prompt_hash=prompt_hash(prompt),
            prompt_len=len(prompt),
            truncated=None if truncated is None else bool(truncated[place]),
            reward=None if experience.rewards is None else float(experience.rewards[place]),
            logp_semantics="unknown",
        )
    return rows
