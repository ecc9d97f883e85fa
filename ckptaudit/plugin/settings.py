"""Which configuration a pytest run obeys: the one named, or the one where pytest was started."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ckptaudit.checkpoints import Checkpoint
from ckptaudit.cli.gate_settings import refuse_beside_weights, refuse_within_logs
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
    """Raise ConfigError if settings that nobody named come from a folder that an opened checkpoint lies in."""
    refuse_beside_weights(_found(config, settings), checkpoints)


def refuse_settings_of_logs(config: pytest.Config, settings: Config, logs: Sequence[str]) -> None:
    """Raise ConfigError if settings that nobody named come from within a log of rollouts."""
    refuse_within_logs(_found(config, settings), logs)


def _found(config: pytest.Config, settings: Config) -> list[Path]:
    """The settings in force that nobody has named."""
    named = config.getoption("audit_config") or getattr(config, "workerinput", None)
    found = [] if named else [settings.path]
    if not config.getoption("inifilename", None):
        found += [config.inipath, config.stash.get(FOUND_AT_FIRST, None)]
    return [path for path in found if path is not None]
