"""Adapters begun on principal directions (PiSSA): where they start, and where training takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import fsum, sqrt
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ckptaudit.errors import MeasurementError
from ckptaudit.metrics.groups import Reading, WeightGroup, group_metric

PISSA = "arXiv:2404.02948 (PiSSA)"
INIT = "adapter_init"

Matrix = Float[Tensor, "m n"]


class _Adapted(NamedTuple):
    """A weight that the adapter changes, with the top-r singular vectors of its base; r is the adapter's rank."""

    name: str
    base: Matrix
    tuned: Matrix
    product: Matrix
    initial: Matrix | None
    left: Float[Tensor, "m r"]
    right: Float[Tensor, "n r"]
    residual: Matrix


@group_metric(
    unit="1",
    scale="size",
    formula="norm(W0 - (W_res + s B0 A0)) / norm(W0), W_res = W0 - U0r S0r V0r' as stored, B0 A0 at the start",
    source=f"{PISSA}; W_res as peft rebuilds it when it loads the adapter",
    inputs=(INIT,),
)
def pissa_residual_error(group: WeightGroup) -> Reading:
    """How far residual and initial adapter together are from the base; only storing the residual should show."""
    return _quotient(group, lambda a: (a.base - (a.residual + _initial(a)), a.base), root=True)


@group_metric(
    unit="1",
    scale="share",
    formula="norm(U0r' B0 A0 V0r)^2 / norm(B0 A0)^2, r the adapter's rank; 0 for an adapter that starts at zero",
    source=PISSA,
    inputs=(INIT,),
)
def initial_principal_share(group: WeightGroup) -> Reading:
    """Share of the initial adapter that lies in the base's top-r singular subspaces; r^2 / (m n) if random."""
    return _quotient(group, lambda a: (_inside(a, _initial(a)), _initial(a)), least=True)


@group_metric(
    unit="1",
    scale="share",
    formula="norm(U0r' B A V0r)^2 / norm(B A)^2, r the adapter's rank; 0 for a zero adapter",
    source=f"{PISSA}; arXiv:2511.08567 for what becomes of it",
    inputs=(),
)
def adapter_principal_share(group: WeightGroup) -> Reading:
    """Share of the trained adapter that still lies in the base's top-r singular subspaces."""
    return _quotient(group, lambda a: (_inside(a, a.product), a.product), least=True)


@group_metric(
    unit="1",
    scale="share",
    formula="1 - norm((I - U0r U0r') D (I - V0r V0r'))^2 / norm(D)^2, r the adapter's rank; 0 for a zero update",
    source="follows from arXiv:2511.08567, Gate II; the one-sided share is our reading",
    inputs=(),
)
def principal_contact(group: WeightGroup) -> Reading:
    """Share of the update that reads from or writes to the base's top-r singular directions.

    A small step of a PiSSA adapter reads 1 but for second order, as D = dB A0 + B0 dA; an isotropic update
    reads 1 - (1 - r / m) (1 - r / n).
    """
    return _quotient(group, lambda a: (a.tuned - a.base, a.tuned - a.base), less=_away)


def _quotient(
    group: WeightGroup,
    parts: Callable[[_Adapted], tuple[Tensor, Tensor]],
    *,
    root: bool = False,
    least: bool = False,
    less: Callable[[_Adapted, Tensor], Tensor] | None = None,
) -> Reading:
    """Energy of the first part against that of the second, summed over all weights; 0 for nothing of nothing.

    `less` takes from the first part what it returns of it. The weight that stands out is named.
    """
    above, below, single = [], [], []
    for adapted in _adapted(group):
        part, whole = parts(adapted)
        above.append(_energy(part) - (_energy(less(adapted, part)) if less is not None else 0.0))
        below.append(_energy(whole))
        single.append((above[-1] / below[-1] if below[-1] else 0.0, adapted.name))
    value = fsum(above) / fsum(below) if fsum(below) else 0.0
    worst = (min if least else max)(single)[1]
    return Reading(sqrt(value) if root else min(1.0, max(0.0, value)), worst)


def _energy(matrix: Tensor) -> float:
    return float(matrix.square().sum())


def _away(adapted: _Adapted, update: Tensor) -> Tensor:
    """The update's part that neither reads from nor writes to a principal direction."""
    unwritten = update - adapted.left @ (adapted.left.mT @ update)
    return unwritten - (unwritten @ adapted.right) @ adapted.right.mT


def _adapted(group: WeightGroup) -> Iterator[_Adapted]:
    found = False
    for member in group.members:
        tensor, product = member.tensor, member.tensor.tuned.product
        if product is None:
            continue
        found = True
        base, tuned = tensor.base.read(), tensor.tuned.read()
        for side in (base, tuned):
            if not bool(side.isfinite().all()):
                raise MeasurementError(f"{member.name} has NaN or infinite entries")
        whole = base.to(group.device).double()
        u, s, vh = torch.linalg.svd(whole, full_matrices=False)
        r = min(product.rank, len(s))
        residual = (whole - (u[:, :r] * s[:r]) @ vh[:r]).to(base.dtype).double()
        start = group.inputs[INIT].weights[tensor.name].tuned.product if INIT in group.inputs else None
        yield _Adapted(
            name=member.name,
            base=whole,
            tuned=tuned.to(whole),
            product=product.dense().to(whole),
            initial=None if start is None else start.dense().to(whole),
            left=u[:, :r],
            right=vh[:r].mT,
            residual=residual,
        )
    if not found:
        raise MeasurementError("no plain LoRA or PiSSA adapter changes these weights")


def _initial(adapted: _Adapted) -> Matrix:
    if adapted.initial is None:
        raise MeasurementError(f"the initial adapter has nothing for {adapted.name}")
    return adapted.initial


def _inside(adapted: _Adapted, matrix: Matrix) -> Float[Tensor, "r r"]:
    return adapted.left.mT @ matrix @ adapted.right
