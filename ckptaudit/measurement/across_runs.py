"""Several runs of one base to measurements: what each did to the same weight, read one weight at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from ckptaudit.linalg.update_series import inner_products, straight_weights
from ckptaudit.metrics import Measurement, PairBatch
from ckptaudit.metrics.across_runs import runs_metrics
from ckptaudit.metrics.footprints import Footprint, Footprints, SeriesSums, directions, footprint
from ckptaudit.pairing import AlignedTensor
from ckptaudit.pairing.runs import Over

BLOCK_BYTES = 512 * 2**20
"""Budget for the float64 copies of a block of a stack of experts, and for all runs' updates of a block."""

COPIES = 6

UPDATE_BYTES = 4


def measure_across(
    runs: Sequence[Sequence[AlignedTensor]], steps: Sequence[int], over: Over, device: torch.device
) -> list[list[Measurement]]:
    """Every metric over `steps` or `siblings` of a subject, for each run; weights that some run lacks stay out.

    Alive at once are one weight of base and one run, of each run its leading update directions, and the updates
    of all runs in as many entries as BLOCK_BYTES hold; of siblings also one byte for each entry of the weight and
    run, for the masks.
    """
    shared = _in_all(runs)
    found: list[list[Measurement]] = [[] for _ in runs]
    for weights in shared:
        for names, prints in _footprints(weights, tuple(steps), over, device):
            for rows, more in zip(found, _measurements(weights[0], names, prints, over), strict=True):
                rows += more
    return found


def _in_all(runs: Sequence[Sequence[AlignedTensor]]) -> list[tuple[AlignedTensor, ...]]:
    """The matrices that every run has with one shape, each with its counterpart in every run."""
    by_name = [{(t.name, t.shape): t for t in tensors if t.is_matrix} for tensors in runs]
    keys = [key for key in by_name[0] if all(key in other for other in by_name[1:])]
    return [tuple(table[key] for table in by_name) for key in keys]


def _footprints(
    weights: Sequence[AlignedTensor], steps: tuple[int, ...], over: Over, device: torch.device
) -> Iterator[tuple[Sequence[str], Footprints]]:
    shape = weights[0].matrix_shape
    base = weights[0].base.read().reshape(shape)
    blocks = _blocks(shape)
    # Each run's weight is read once, and gone before the next is read; only its footprints stay.
    take = partial(_footprint, k=_directions(weights), over=over, device=device)
    runs = [_by_block(base, weight.tuned.read().reshape(shape), blocks, take) for weight in weights]
    names, sums = weights[0].matrix_names(), _sums(base, weights, steps, over, device)
    for block, prints in zip(blocks, zip(*runs, strict=True), strict=True):
        own = SeriesSums(sums.products[:, :, block], sums.moved[block], sums.straight[block])
        yield names[block], Footprints(prints, steps, own)


def _sums(
    base: Tensor, weights: Sequence[AlignedTensor], steps: tuple[int, ...], over: Over, device: torch.device
) -> SeriesSums:
    """What the updates of all runs show together, in blocks of entries; each block reads every run once."""
    flat, count = base.flatten(1), len(base)
    size = max(1, BLOCK_BYTES // (UPDATE_BYTES * len(weights) * count))
    products = torch.zeros(len(weights), len(weights), count, dtype=torch.float64)
    counts = torch.zeros(2, count, dtype=torch.float64)
    for start in range(0, flat.shape[1], size):
        here = slice(start, start + size)
        before = flat[:, here].to(device).double()
        updates = torch.stack([_update(before, weight, here) for weight in weights])
        products += inner_products(updates)
        if over == "steps":
            counts += straight_weights(updates, steps)
    return SeriesSums(products, *counts)


def _update(before: Tensor, weight: AlignedTensor, entries: slice) -> Tensor:
    """W1 - W0 in float32, rounded once."""
    tuned = weight.tuned.read().reshape(weight.matrix_shape).flatten(1)[:, entries]
    return (tuned.to(before.device).double() - before).float()


def _blocks(shape: tuple[int, int, int]) -> list[slice]:
    count, m, n = shape
    size = max(1, BLOCK_BYTES // (COPIES * 8 * m * n))
    return [slice(start, start + size) for start in range(0, count, size)]


def _directions(weights: Sequence[AlignedTensor]) -> int:
    """K, and no more than the rank of any run's adapter: beyond it there is nothing but rounding to compare."""
    _, m, n = weights[0].matrix_shape
    adapters = (weight.tuned.low_rank for weight in weights)
    return max(1, min([directions(m, n), *(adapter.rank for adapter in adapters if adapter)]))


def _by_block(
    base: Tensor, tuned: Tensor, blocks: Sequence[slice], take: Callable[[Tensor, Tensor], Footprint]
) -> list[Footprint]:
    return [take(base[block], tuned[block]) for block in blocks]


def _footprint(base: Tensor, tuned: Tensor, *, k: int, over: Over, device: torch.device) -> Footprint:
    made = footprint(PairBatch(base.to(device), tuned.to(device)), k=k, with_mask=over == "siblings")
    mask = None if made.mask is None else made.mask.cpu()
    return Footprint(made.norm.cpu(), made.stable_rank.cpu(), made.space.cpu(), made.sound.cpu(), mask)


def _measurements(
    weight: AlignedTensor, names: Sequence[str], prints: Footprints, over: Over
) -> list[list[Measurement]]:
    found: list[list[Measurement]] = [[] for _ in prints.of]
    for metric in (m for m in runs_metrics().values() if m.over == over):
        for rows, values in zip(found, metric.compute(prints).tolist(), strict=True):
            for name, value, sound in zip(names, values, prints.sound.tolist(), strict=True):
                # A weight with a NaN cannot be judged; one of which the metric says nothing is left out.
                if math.isfinite(value) or not sound:
                    rows.append(_record(weight, name, metric.name, value if sound else None))
    return found


def _record(weight: AlignedTensor, name: str, metric: str, value: float | None) -> Measurement:
    count, m, n = weight.matrix_shape
    shape = (m, n) if count > 1 else weight.shape
    return Measurement(name, weight.place.layer, weight.place.role, shape, metric, value, "exact")
