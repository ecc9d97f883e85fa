"""Under pytest-xdist: what worker processes are told, where all share measurements, how items are spread."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from ckptaudit.measurement.store import MeasurementStore
from ckptaudit.plugin.settings import CONFIG

STORE = "ckptaudit_store"
REPORTED = "ckptaudit_reported"


class Processes:
    """The workers of one run, seen from the process that starts them; a plugin of its own."""

    def __init__(self, store: MeasurementStore, config: Path | None, *, reported: bool) -> None:
        self._store = store
        self._config = config
        self._reported = reported
        self._shared: TemporaryDirectory[str] | None = None

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker where the measurements are shared, so that each is taken once."""
        if self._shared is None:
            self._shared = TemporaryDirectory(prefix="ckptaudit-")
            self._store.folder = Path(self._shared.name)
        node.workerinput[CONFIG] = str(self._config or "")
        node.workerinput[STORE] = self._shared.name
        node.workerinput[REPORTED] = self._reported

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Keep a layer's checks in one process under the plain `-n`; an explicit --dist is obeyed."""
        if config.getoption("dist") != "load":
            return None
        from ckptaudit.plugin.scheduling import SubjectScheduling

        return SubjectScheduling(config, log)

    def pytest_unconfigure(self) -> None:
        """Remove the shared folder."""
        if self._shared is not None:
            self._shared.cleanup()


def share_cores() -> None:
    """Give each worker its part of the machine."""
    import torch

    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
