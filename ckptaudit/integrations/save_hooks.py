"""Where verl, OpenRLHF and NeMo-RL save: an audit at each of their checkpoints.

The docstrings say of which release the places are, and what was run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

from ckptaudit.integrations.saves import SaveAudits

SETTINGS = ("base", "profile", "config", "on_fail", "where", "link", "json_folder", "threads")


class VerlSaves:
    """verl's own callback at a save, named by `trainer.checkpoint_callback_class`.

    Settings are those of SaveAudits, under `+trainer.ckptaudit`; the base is `actor_rollout_ref.model.path` unless
    given. A save that Megatron still writes when verl calls is audited at the next call, or by `close`.

    Written against CheckpointCallback of verl 0.9.1, whose own loader builds it in a test; not run in a training.
    """

    def __init__(self, config: Any) -> None:
        given = dict(config.trainer.get("ckptaudit", None) or {})
        given.setdefault("base", config.actor_rollout_ref.model.path)
        self.saves = SaveAudits(**settings_of(given))
        self._unfinished: tuple[str, int] | None = None

    def on_save(
        self, trainer: Any, global_step: int, checkpoint_dir: str, async_save: bool = False, **_: Any
    ) -> None:
        """Called by verl's trainer in the driver; what is raised here ends the training, as "stop" is to do."""
        self._audit_unfinished()
        if async_save:
            self._unfinished = (checkpoint_dir, global_step)
        else:
            self.saves.audit(checkpoint_dir, global_step)

    def close(self) -> None:
        """Audit what is left, and wait."""
        self._audit_unfinished()
        self.saves.close()

    def _audit_unfinished(self) -> None:
        if self._unfinished is not None:
            (path, step), self._unfinished = self._unfinished, None
            self.saves.audit(path, step)


def attach_verl(trainer: Any, saves: SaveAudits) -> SaveAudits:
    """For verl's older RayPPOTrainer, which has no callback: audit after its `_save_checkpoint`.

    Written against verl 0.9.1; tried with an object that saves as it does.
    """

    def after() -> None:
        step = int(trainer.global_steps)
        saves.audit(Path(trainer.config.trainer.default_local_dir) / f"global_step_{step}", step)

    _after(trainer, "_save_checkpoint", lambda *_args, **_kwargs: after())
    return saves


def attach_openrlhf(trainer: Any, saves: SaveAudits) -> SaveAudits:
    """Audit the Hugging Face folder that OpenRLHF writes beside DeepSpeed's; needs `--ckpt.save_hf`.

    To be called where the trainer object is, in the constructor of a subclass of its PPOTrainer. Written against
    OpenRLHF 0.11.2; tried with an object that saves as it does.
    """

    def after(global_step: int, *_args: Any, **_kwargs: Any) -> None:
        folder = Path(trainer.args.ckpt.path) / f"global_step{global_step}_hf"
        if global_step % trainer.args.ckpt.save_steps == 0 and folder.is_dir():
            saves.audit(folder, global_step)
        else:
            saves.check()

    _after(trainer, "save_logs_and_checkpoints", after)
    return saves


def attach_nemo_rl(manager: Any, saves: SaveAudits) -> SaveAudits:
    """Audit each `step_N` once NeMo-RL's CheckpointManager has given it its name; also for saves in the background.

    The folder holds the policy's weights for torch.distributed.checkpoint. An error in the manager's background
    thread is raised by its next `finalize_pending`, so "stop" stops one save later. Written against the public
    sources of 2026; the package is not on an index, so it was tried with an object that renames as it does.
    """

    def after(checkpoint_path: Any) -> None:
        step = int(Path(checkpoint_path).name.split("_")[2])
        saves.audit(Path(checkpoint_path).parent / f"step_{step}", step)

    _after(manager, "_rename_checkpoint", after)
    return saves


def _after(owner: Any, name: str, also: Callable[..., None]) -> None:
    original = getattr(owner, name, None)
    if original is None:
        raise AttributeError(f"this release has no {name}; call SaveAudits.audit after its saves instead")

    @wraps(original)
    def saved(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        also(*args, **kwargs)
        return found

    setattr(owner, name, saved)


def settings_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """What of a trainer's settings SaveAudits takes."""
    return {name: given[name] for name in SETTINGS if name in given}
