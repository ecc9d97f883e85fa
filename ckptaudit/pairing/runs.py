"""The tuned checkpoints of an audit, and which of them belong together: steps of one run, or runs from one base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from ckptaudit.checkpoints import Checkpoint, merge_adapter, open_checkpoint
from ckptaudit.checkpoints.paths import Named, written_out
from ckptaudit.options import Several
from ckptaudit.pairing.alignment import pair_checkpoints
from ckptaudit.pairing.model_pair import ModelPair

Over = Literal["steps", "siblings"]
"""What runs that are compared are to each other."""

FEWEST_SIBLINGS = 3
"""Of two runs that differ nobody can say which one went elsewhere."""


@dataclass(frozen=True)
class Run:
    """One tuned checkpoint against the base; `label` tells runs apart in ids."""

    label: str
    path: str
    pair: ModelPair


@dataclass(frozen=True, slots=True)
class Order:
    """Runs that are compared with each other, by position; `steps` count up, or are all 0 for siblings.

    `counted` says that the steps are positions, because the names hold no numbers.
    """

    over: Over
    name: str
    members: tuple[int, ...]
    steps: tuple[int, ...]
    counted: bool = False


@dataclass(frozen=True)
class RunGroup:
    """An order with its runs."""

    order: Order
    runs: tuple[Run, ...]

    @property
    def over(self) -> Over:
        """What the runs are to each other."""
        return self.order.over

    def position(self, run: Run) -> int:
        """Where a run stands in the order."""
        return self.runs.index(run)


def open_runs(base: Checkpoint, named: Sequence[Named], initial: Checkpoint | None = None) -> tuple[Run, ...]:
    """Open and pair each with the base, which is opened once. Raises CkptAuditError.

    `initial` is what an adapter was before training, where it took its start from the base's own weights.
    """
    return tuple(_open(base, item, initial) for item in named)


def unpaired(label: str, path: str) -> Run:
    """A run of which no weights were given, only what it logged: a pair of nothing with nothing."""
    nothing = Checkpoint("", "none", {})
    return Run(label, path, ModelPair(nothing, nothing, (), (), ()))


def orders(named: Sequence[Named], several: Several = "auto") -> tuple[Order, ...]:
    """Which checkpoints are compared.

    `auto`: those whose paths are alike but for the step are steps of one run; the last saves of three
    runs or more are siblings. `steps`: all of them, by the numbers in their names or, failing that, in
    the order given. `siblings`: all of them. `apart`: none.
    """
    if several == "apart" or len(named) < 2:
        return ()
    if several == "steps":
        return (_as_steps("the run", tuple(range(len(named))), named),)
    if several == "siblings":
        return (_as_siblings(tuple(range(len(named)))),)
    families: dict[str, list[int]] = {}
    for position, item in enumerate(named):
        families.setdefault(item.run, []).append(position)
    found = [_as_steps(name, tuple(members), named) for name, members in families.items() if len(members) > 1]
    numbered = [order for order in found if not order.counted]
    ends = tuple(max(members, key=lambda i: named[i].step or 0) for members in families.values())
    siblings = (_as_siblings(ends),) if len(ends) >= FEWEST_SIBLINGS else ()
    return (*numbered, *siblings)


def open_all(
    base: Checkpoint, tuned: Sequence[str], several: Several, initial: Checkpoint | None = None
) -> tuple[tuple[Run, ...], tuple[RunGroup, ...]]:
    """Every run that is meant, and the groups they form. Raises CkptAuditError."""
    named = written_out(tuned)
    runs = open_runs(base, named, initial)
    return runs, tuple(RunGroup(order, tuple(runs[i] for i in order.members)) for order in orders(named, several))


def _open(base: Checkpoint, item: Named, initial: Checkpoint | None) -> Run:
    tuned = open_checkpoint(item.path)
    # The checkpoint knows what `@latest` or a hub id came to; reports should name that.
    return Run(item.label, tuned.path, pair_checkpoints(base, merge_adapter(base, tuned, initial)))


def _as_steps(name: str, members: tuple[int, ...], named: Sequence[Named]) -> Order:
    steps = [named[i].step for i in members]
    known = sorted((step, i) for step, i in zip(steps, members, strict=True) if step is not None)
    if len(known) == len(members) and all(a < b for (a, _), (b, _) in pairwise(known)):
        return Order("steps", name, tuple(i for _, i in known), tuple(step for step, _ in known))
    return Order("steps", name, members, tuple(range(1, len(members) + 1)), counted=True)


def _as_siblings(members: tuple[int, ...]) -> Order:
    return Order("siblings", "runs from one base", members, (0,) * len(members))
