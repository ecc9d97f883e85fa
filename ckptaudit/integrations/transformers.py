"""An audit at each save of a transformers or TRL trainer.

trainer = GRPOTrainer(..., callbacks=[AuditCallback(base="path/to/base", on_fail="stop")])
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.errors import CheckDefinitionError
from ckptaudit.judging.config import Config, check_files, load_config
from ckptaudit.judging.verdict import Verdict
from ckptaudit.pipeline.api import audit
from ckptaudit.report.appearance import number
from ckptaudit.results.json_io import write_json
from ckptaudit.results.records import AuditResult

OnFail = Literal["warn", "stop"]

logger = logging.getLogger(__name__)

SHOWN = 5
"""How many broken claims a log line names."""


class AuditCallback(TrainerCallback):
    """Audits every `checkpoint-N` as it is saved, on rank 0; PEFT adapters as the model they make.

    A broken claim is logged as a warning, and with `on_fail="stop"` also ends the training after that
    save. An audit that cannot be made is logged alike, and never raises into the training loop; with
    "stop" it ends the training too, since what was not judged is not good. `results` holds the audits
    by step; with `json_folder` each is written there as `checkpoint-N.json`. `device` is the CPU by
    default, as the training needs the GPU's memory.

    Raises CkptAuditError at once for an unknown `on_fail`, and for a base, profile or configuration that
    cannot be read: a mistake is to be seen before the training, not after its first hours.
    """

    def __init__(
        self,
        base: str | Path,
        *,
        profile: str = "",
        config: str | Path | Config | None = None,
        on_fail: OnFail = "warn",
        device: str = "cpu",
        json_folder: str | Path | None = None,
    ) -> None:
        if on_fail not in ("warn", "stop"):
            raise CheckDefinitionError(f"on_fail {on_fail!r}: choose warn or stop.")
        open_checkpoint(base)
        self.config = config if isinstance(config, Config) or config is None else load_config(Path(config))
        check_files(self.config or Config(), profile)
        self.base, self.profile, self.device = base, profile, device
        self.on_fail = on_fail
        self.json_folder = None if json_folder is None else Path(json_folder)
        self.results: dict[int, AuditResult] = {}

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Audit the save that was just made, and ask for the end of the training where that is wanted."""
        _wait_for_all_ranks()
        sound = True
        if state.is_world_process_zero:
            sound = self._is_sound(
                Path(args.output_dir or ".") / f"checkpoint-{state.global_step}", state.global_step
            )
        if self.on_fail == "stop" and not _told_by_rank_0(sound, args.device):
            control.should_training_stop = True
        return control

    def _is_sound(self, save: Path, step: int) -> bool:
        try:
            result = audit(
                self.base, save, profile=self.profile, config=self.config, device=self.device, complete=False
            )
            self.results[step] = result
            if self.json_folder is not None:
                write_json(result, self.json_folder / f"{save.name}.json")
        except Exception as error:  # whatever it is, hours of training must not be lost to it
            logger.warning("%s: the audit could not be made (%s: %s)", save, type(error).__name__, error)
            return False
        if result.passed:
            logger.info("%s: the audit holds, %d verdicts", save, result.summary.passed)
            return True
        logger.warning("%s: %s", save, _in_words(result))
        return False


def _in_words(result: AuditResult) -> str:
    bad = [v for v in result.verdicts if v.outcome in ("failed", "error") and v.severity == "gate"]
    named = "; ".join(_row_in_words(v) for v in bad[:SHOWN])
    more = f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    return f"{len(bad)} of {len(result.verdicts)} verdicts close the gate: {named}{more}"


def _row_in_words(row: Verdict) -> str:
    said = row.reason if row.value is None else f"{number(row.value)}, limit {row.sign} {number(row.limit)}"
    return f"{row.check}[{row.subject}] {said}"


def _wait_for_all_ranks() -> None:
    """Until every rank has written its share of the save."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.barrier()


def _told_by_rank_0(sound: bool, device: Any) -> bool:
    """What rank 0 found, on every rank: one that stops alone would leave the others waiting for it."""
    import torch
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return sound
    told = torch.tensor([int(sound)], device=device)
    dist.broadcast(told, src=0)
    return bool(told.item())
