"""How far a run is whose tests measure what they need, one after the other or in several processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ckptaudit.judging.plan import AuditPlan
from ckptaudit.measurement.jobs import Unit
from ckptaudit.plugin.progress import Log, log_of


class TensorCount:
    """Tensors measured of those that the verdicts rest on, told now and then; a plugin of its own.

    A verdict is known by its test's name. What it rests on is measured once its test has reported.
    """

    def __init__(self, config: pytest.Config, plan: Callable[[], AuditPlan]) -> None:
        self._config = config
        self._plan = plan
        self._chosen: set[str] | None = None
        self._log: Log | None = None
        self._waiting: dict[Unit, int] = {}
        self._resting: dict[str, tuple[Unit, ...]] = {}
        self._total = 0

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        """Only the workers know what -k and -m leave; all of them the same."""
        if self._log is None:
            self._chosen = {name for nodeid in ids if (name := _name(nodeid))}
            self.start()

    def start(self) -> None:
        """Count what is ahead, and look at the clock."""
        plan = self._plan()
        if (chosen := self._chosen) is not None:
            plan = plan.only({planned.id for planned in plan.verdicts if planned.name in chosen})
        for planned in plan.verdicts:
            self._resting[planned.name] = tuple(unit for unit in planned.units if unit.scope == "matrix")
        units = dict.fromkeys(unit for resting in self._resting.values() for unit in resting)
        self._waiting = {unit: len(plan.jobs(unit)) for unit in units}
        self._total = sum(self._waiting.values())
        self._log = log_of(self._config)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test has been judged, here or elsewhere: what it rests on is there."""
        if report.when == "call" or report.outcome != "passed":
            for unit in self._resting.pop(_name(report.nodeid), ()):
                self._waiting.pop(unit, None)
            self.within(0, 0)

    def within(self, done: int, of: int) -> None:
        """As above, and within the test that is measuring now."""
        left = sum(self._waiting.values())
        if self._log is not None and left:
            self._log(self._total - left + min(done, left), self._total)


def _name(nodeid: str) -> str:
    return nodeid.rpartition("::")[2]
