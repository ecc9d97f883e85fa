"""What a trainer logged of one run, opened: its rollouts, its curves, and what was declared of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
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
    scalars: tuple[str, ...] = ()
    """Where the curves were read from."""

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


def files_of_log(path: str) -> Sequence[Path]:
    """The files of a log of rollouts that are read. Raises RolloutError."""
    from ckptaudit.rollouts.readers import rollout_files

    return rollout_files(path)


def files_of_curves(path: str) -> Sequence[Path]:
    """The files of a run's curves that are read. Raises RolloutError."""
    from ckptaudit.rollouts.scalars import scalar_files

    return scalar_files(path)


def open_run_logs(rollouts: Sequence[str], scalars: Sequence[str], facts: RunFacts) -> tuple[RunLog, ...]:
    """Open every log that is meant, and read its curves.

    Raises RolloutError if one of them is missing or of no known kind, or if pyarrow is not installed.
    """
    try:
        from ckptaudit.rollouts.logs import written_out
        from ckptaudit.rollouts.readers import open_rollouts
        from ckptaudit.rollouts.scalars import merged, read_scalars
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise RolloutError(
            f"{parameter('rollouts')} needs pyarrow; install it with `pip install 'ckptaudit[rollouts]'`."
        ) from None
    return tuple(
        RunLog(log.path, open_rollouts(log.path, facts), facts, merged(map(read_scalars, log.scalars)), log.scalars)
        for log in written_out(rollouts, scalars)
    )
