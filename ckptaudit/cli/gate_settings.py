"""Settings that nobody named are refused where a checkpoint or a log lies beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ckptaudit.checkpoints import Checkpoint
from ckptaudit.errors import ConfigError, parameter, printable


def refuse_beside_weights(paths: Sequence[Path], checkpoints: Sequence[Checkpoint]) -> None:
    """Raise ConfigError for settings in a folder that a checkpoint lies in.

    Whoever wrote the weights has no say in how they are judged. A configuration named on the command line is the
    user's own, wherever it lies, and is none of these paths.
    """
    for path in paths:
        for checkpoint in checkpoints:
            if path.resolve().parent in _folders(checkpoint) or _is_inside(path, checkpoint):
                raise ConfigError(
                    f"{printable(path)}: lies beside the weights of {printable(checkpoint.path)}, and a checkpoint "
                    "may not say how it is judged; start elsewhere, or name your own with "
                    f"{parameter('config')} or -c."
                )


def refuse_within_logs(paths: Sequence[Path], logs: Sequence[str]) -> None:
    """Raise ConfigError for settings within a log of rollouts, for the same reason."""
    for path in paths:
        for log in map(Path, logs):
            if log.is_dir() and path.resolve().is_relative_to(log.resolve()):
                raise ConfigError(
                    f"{printable(path)}: lies within the log {printable(log)}, and a log may not say how it is "
                    f"judged; start elsewhere, or name your own with {parameter('config')} or -c."
                )


def _folders(checkpoint: Checkpoint) -> set[Path]:
    files = {handle.file for handle in checkpoint.tensors.values()}
    return {file.resolve().parent for file in files if isinstance(file, Path)}


def _is_inside(path: Path, checkpoint: Checkpoint) -> bool:
    folder = Path(checkpoint.path)
    return folder.is_dir() and path.resolve().is_relative_to(folder.resolve())
