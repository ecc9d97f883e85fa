"""Which configuration a pytest run obeys: the one named, or the one where pytest was started."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from ckptaudit.errors import ConfigError, printable
from ckptaudit.judging.config import Config, find_config, load_config

CONFIG = "ckptaudit_config"
"""Under this name a worker process is told what its controller has found."""


def settings_of(config: pytest.Config, checkpoints: Iterable[str]) -> Config:
    """The configuration of the run, read; the empty one if there is none.

    Raises ConfigError if it is wrong, or was found inside a checkpoint: whoever wrote the weights has
    no say in how they are judged.
    """
    worker = getattr(config, "workerinput", None)
    named = worker[CONFIG] if worker else config.getoption("audit_config")
    if named:
        return load_config(Path(named))
    found = None if worker else find_config(dict.fromkeys((config.invocation_params.dir, config.rootpath)))
    if found is None:
        return Config()
    for path in checkpoints:
        for folder in (Path(path), Path(path.rpartition("@")[0] or path)):
            if found.resolve().is_relative_to(folder.resolve()):
                raise ConfigError(
                    f"{printable(found)}: lies inside the checkpoint {printable(path)}, and a checkpoint may not "
                    "say how it is judged; start elsewhere, or name your own with --audit-config."
                )
    return load_config(found)
