"""Which configuration a pytest run obeys: the one named, or the one where pytest was started."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ckptaudit.checkpoints import Checkpoint
from ckptaudit.errors import ConfigError, parameter, printable
from ckptaudit.judging.config import Config, find_config, load_config
from ckptaudit.plugin.root import FOUND_AT_FIRST

CONFIG = "ckptaudit_config"
"""Under this name a worker process is told what its controller has found."""


def settings_of(config: pytest.Config) -> Config:
    """The configuration of the run, read; the empty one if there is none. Raises ConfigError if it is wrong."""
    worker = getattr(config, "workerinput", None)
    named = worker[CONFIG] if worker else config.getoption("audit_config")
    if named:
        return load_config(Path(named))
    found = None if worker else find_config(dict.fromkeys((config.invocation_params.dir, config.rootpath)))
    return Config() if found is None else load_config(found)


def refuse_settings_of_checkpoints(
    config: pytest.Config, settings: Config, checkpoints: Sequence[Checkpoint]
) -> None:
    """Raise ConfigError if settings come from a folder that an opened checkpoint lies in.

    Whoever wrote the weights has no say in how they are judged. A configuration named on the command line is the
    user's own, wherever it lies.
    """
    for path in _found(config, settings):
        for checkpoint in checkpoints:
            if path.resolve().parent in _folders(checkpoint) or _is_inside(path, checkpoint):
                raise ConfigError(
                    f"{printable(path)}: lies beside the weights of {printable(checkpoint.path)}, and a checkpoint "
                    "may not say how it is judged; start elsewhere, or name your own with "
                    f"{parameter('config')} or -c."
                )


def refuse_settings_of_logs(config: pytest.Config, settings: Config, logs: Sequence[str]) -> None:
    """Raise ConfigError if settings come from within a log of rollouts, for the same reason."""
    for path in _found(config, settings):
        for log in map(Path, logs):
            if log.is_dir() and path.resolve().is_relative_to(log.resolve()):
                raise ConfigError(
                    f"{printable(path)}: lies within the log {printable(log)}, and a log may not say how it is "
                    f"judged; start elsewhere, or name your own with {parameter('config')} or -c."
                )


def _found(config: pytest.Config, settings: Config) -> list[Path]:
    """The settings in force that nobody has named."""
    named = config.getoption("audit_config") or getattr(config, "workerinput", None)
    found = [] if named else [settings.path]
    if not config.getoption("inifilename", None):
        found += [config.inipath, config.stash.get(FOUND_AT_FIRST, None)]
    return [path for path in found if path is not None]


def _folders(checkpoint: Checkpoint) -> set[Path]:
    files = {handle.file for handle in checkpoint.tensors.values()}
    return {file.resolve().parent for file in files if isinstance(file, Path)}


def _is_inside(path: Path, checkpoint: Checkpoint) -> bool:
    folder = Path(checkpoint.path)
    return folder.is_dir() and path.resolve().is_relative_to(folder.resolve())
