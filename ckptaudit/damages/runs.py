"""Named damages to a series of runs. A check over steps or siblings names the one that must break it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ckptaudit.checkpoints import Checkpoint, TensorHandle
from ckptaudit.damages import weights
from ckptaudit.damages.damage import is_matrix

if TYPE_CHECKING:
    from torch import Tensor

Series = Sequence[Checkpoint]
Damage = Callable[[Checkpoint, Series], list[Checkpoint]]

DAMAGES: dict[str, Damage] = {}
DESCRIPTIONS: dict[str, str] = {}


def damage(function: Damage) -> Damage:
    """Register a damage to a series: (base, runs in order) to the damaged runs."""
    DAMAGES[function.__name__] = function
    DESCRIPTIONS[function.__name__] = function.__doc__ or ""
    return function


@damage
def break_away_at_the_end(base: Checkpoint, runs: Series) -> list[Checkpoint]:
    """The last save's update is ten times as large."""
    return [*runs[:-1], _updated(base, runs[-1], lambda update: 10.0 * update)]


@damage
def widen_at_the_end(base: Checkpoint, runs: Series) -> list[Checkpoint]:
    """The last save's update is spread evenly over all directions."""
    return [*runs[:-1], weights.DAMAGES["flatten_update"](base, runs[-1])]


@damage
def turn_around_at_the_end(base: Checkpoint, runs: Series) -> list[Checkpoint]:
    """The last save's update has its columns in another order: the same size and rank, elsewhere."""
    return [*runs[:-1], _updated(base, runs[-1], _shuffled)]


@damage
def send_one_elsewhere(base: Checkpoint, runs: Series) -> list[Checkpoint]:
    """One run's update has its rows and columns in another order: the same size and rank, elsewhere."""
    return [*runs[:-1], _updated(base, runs[-1], lambda update: _shuffled(_shuffled(update).mT).mT)]


@damage
def turn_one_around(base: Checkpoint, runs: Series) -> list[Checkpoint]:
    """One run's update has the opposite sign, as a reward with the wrong sign gives it."""
    return [*runs[:-1], _updated(base, runs[-1], lambda update: -update)]


@damage
def turn_every_second_around(base: Checkpoint, runs: Series) -> list[Checkpoint]:
    """Every second save's update has the opposite sign: weights go back and forth."""
    return [_updated(base, run, lambda update: -update) if i % 2 else run for i, run in enumerate(runs)]


@damage
def scatter_saves(base: Checkpoint, runs: Series) -> list[Checkpoint]:
    """Each save's update has its columns in an order of its own: as large and as wide, and unrelated."""
    return [_updated(base, run, partial(_shuffled, seed=seed)) for seed, run in enumerate(runs)]


@damage
def send_one_to_the_largest_weights(base: Checkpoint, runs: Series) -> list[Checkpoint]:
    """One run's update lands on the largest tenth of the base's entries and nowhere else."""
    return [*runs[:-1], weights.DAMAGES["overwrite_largest_weights"](base, runs[-1])]


def _shuffled(update: Tensor, seed: int = 0) -> Tensor:
    import torch

    order = torch.randperm(update.shape[1], generator=torch.Generator().manual_seed(seed))
    return update[:, order]


def _updated(base: Checkpoint, tuned: Checkpoint, change: Callable[[Tensor], Tensor]) -> Checkpoint:
    changed = {
        name: _with_update(base.tensors[name], handle, change)
        for name, handle in tuned.tensors.items()
        if name in base.tensors and is_matrix(handle)
    }
    return replace(tuned, tensors={**tuned.tensors, **changed})


def _with_update(base: TensorHandle, tuned: TensorHandle, change: Callable[[Tensor], Tensor]) -> TensorHandle:
    def load() -> Tensor:
        before, after = base.read().double(), tuned.read()
        # A rounded sum of two rounded numbers: stored in float32, the moved update survives as it is.
        return (before + change(after.double() - before)).float()

    return replace(tuned, load=load, dtype="float32", low_rank=None)
