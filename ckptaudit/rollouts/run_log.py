"""What a trainer logged of one run, opened: its rollouts, its curves, and what was declared of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptaudit.errors import RolloutError, parameter
from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.quantities import metrics

if TYPE_CHECKING:
    from ckptaudit.rollouts.measure import Rollouts
    from ckptaudit.rollouts.readings import Reading

Curves = Mapping[str, Mapping[int, float]]
"""Scalars by canonical name and step."""


@dataclass(frozen=True)
class RunLog:
    """The rollouts of a run as a table, the curves that were given beside it, and the facts declared of it."""

    path: str
    table: Rollouts
    facts: RunFacts = field(default_factory=RunFacts)
    curves: Curves = field(default_factory=dict)

    def lacking(self, metric: str) -> str:
        """Why a metric cannot be had of this log, and what would record or declare it; empty where it can."""
        from ckptaudit.rollouts.measure import not_measurable

        for reason, names in not_measurable(self.table, self.curves).items():
            if metric in names:
                return reason
        undeclared = [fact for fact in metrics()[metric].declared if getattr(self.facts, fact) is None]
        return f"declare {' and '.join(undeclared)} in [rollouts]" if undeclared else ""

    def readings(self, wanted: Iterable[str], checkpoint_steps: Sequence[int] = ()) -> Iterator[Reading]:
        """One pass over the table for all wanted metrics. Raises RolloutError where it cannot be read."""
        from ckptaudit.rollouts.measure import measure

        return measure(
            self.table, self.facts, wanted, scalars=self.curves, checkpoint_steps=tuple(checkpoint_steps)
        )


def open_run_log(path: str, scalars: str | None, facts: RunFacts) -> RunLog:
    """Open the log of a run, and read its curves. Raises RolloutError if either is missing or of no known kind."""
    try:
        from ckptaudit.rollouts.readers import open_rollouts
        from ckptaudit.rollouts.scalars import read_scalars
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise RolloutError(
            f"{parameter('rollouts')} needs pyarrow; install it with `pip install 'ckptaudit[rollouts]'`."
        ) from None
    curves = read_scalars(scalars) if scalars is not None else {}
    return RunLog(path, open_rollouts(path, facts), facts, curves)
