"""The search: one group of units after another is put in the order that suits all others, until nothing moves.

Weight matching after Ainsworth, Hayase and Srinivasa 2023 (arXiv:2209.04836): each step solves a linear
assignment exactly, so the inner product of the two models never falls and the search ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from ckptaudit.pairing import AlignedTensor, ModelPair
from ckptaudit.pairing.matching.attention import HeadOrder, Likeness, assignment, match_heads
from ckptaudit.pairing.matching.symmetries import FIXED, Axis, Symmetries, symmetries_of

SWEEPS = 100
STREAM: Axis = ("stream", None)
COUNTED = ("stream", "units", "queries", "keys", "values")

Orders = Mapping[Axis, Int[Tensor, "n"]]


@dataclass(frozen=True, eq=False)
class Matching:
    """For each axis the order in which the tuned model's units come nearest to the base's."""

    symmetries: Symmetries
    orders: Orders
    sweeps: int
    inner_product: float
    """Sum over all weights of <W0, matched W1>."""

    def matched(self, tensor: AlignedTensor, tuned: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """The tuned weight with its units in the base's order."""
        rows, columns = self.symmetries.axes[tensor.name]
        return _ordered(tuned, self.orders.get(rows), self.orders.get(columns))

    @property
    def moved(self) -> float:
        """Share of the units, of all axes together, that are not where the base has them."""
        orders = [order for (name, _), order in self.orders.items() if name in COUNTED]
        moved = sum(int((order != torch.arange(len(order))).sum()) for order in orders)
        return moved / max(1, sum(len(order) for order in orders))


def matching_of(pair: ModelPair) -> Matching:
    """The matching of a pair.

    Raises MeasurementError where the architecture is not described, a weight does not align or is not finite.
    """
    return _search(symmetries_of(pair))


@dataclass(slots=True)
class _State:
    """The orders found so far; what has none is as it was."""

    symmetries: Symmetries
    orders: dict[Axis, Tensor] = field(default_factory=dict)
    heads: dict[int, HeadOrder] = field(default_factory=dict)


def _search(symmetries: Symmetries) -> Matching:
    state = _State(symmetries)
    # Embeddings, head and norms have no axis but the stream that could be out of order: they come first.
    _order_stream(state, anchored=True)
    for sweep in range(1, SWEEPS + 1):
        sweeps, before = sweep, dict(state.orders)
        for layer in symmetries.layers:
            _order_units(state, layer)
            _order_heads(state, layer)
        _order_stream(state)
        if _same(before, state.orders):
            break
    found, unmoved = _inner_product(state), _inner_product(_State(symmetries))
    if found <= unmoved:
        orders = {axis: torch.arange(len(order)) for axis, order in state.orders.items()}
        return Matching(symmetries, orders, sweeps, unmoved)
    return Matching(symmetries, state.orders, sweeps, found)


def _order_stream(state: _State, *, anchored: bool = False) -> None:
    weights = state.symmetries.along(STREAM)
    if anchored:
        weights = tuple(w for w in weights if FIXED in state.symmetries.axes[w.name])
    state.orders[STREAM] = _best_order(state, STREAM, weights)


def _order_units(state: _State, layer: int) -> None:
    axis: Axis = ("units", layer)
    state.orders[axis] = _best_order(state, axis, state.symmetries.along(axis))


def _best_order(state: _State, axis: Axis, weights: tuple[AlignedTensor, ...]) -> Tensor:
    gain: Tensor | float = 0.0
    for weight in weights:
        rows, _ = state.symmetries.axes[weight.name]
        base, tuned = _read(state, weight, but=axis)
        gain = gain + (base @ tuned.T if rows == axis else base.T @ tuned)
    assert isinstance(gain, Tensor)  # an axis exists because some weight runs along it
    return assignment(gain)


def _order_heads(state: _State, layer: int) -> None:
    like = _likeness(state, layer)
    kv, rep, dim = like.mixed.shape[:3]
    plain = HeadOrder(torch.arange(kv), torch.arange(rep).repeat(kv, 1), torch.arange(dim).repeat(kv, 1))
    order = match_heads(like, state.heads.get(layer, plain))
    state.heads[layer] = order
    groups, queries = order.groups[:, None], (order.groups[:, None] * rep + order.queries).flatten()
    values = groups * dim + order.values
    state.orders["keys", layer] = _spread(order.groups, _head_size(state, "k_proj", layer, kv))
    state.orders["queries", layer] = _spread(queries, _head_size(state, "q_proj", layer, kv * rep))
    state.orders["values", layer] = values.flatten()
    within = order.values[:, None, :].expand(kv, rep, dim).reshape(kv * rep, dim)
    state.orders["mixed", layer] = (queries[:, None] * dim + within).flatten()


def _likeness(state: _State, layer: int) -> Likeness:
    kv = state.symmetries.kv_heads
    rep = state.symmetries.heads // kv
    keys = _products(state, "k_proj", layer, heads=kv)
    queries = _products(state, "q_proj", layer, heads=kv * rep).reshape(kv, rep, kv, rep)
    values = _products(state, "v_proj", layer)
    output = state.symmetries.weight("o_proj", layer)
    assert output is not None  # its table names it, and every weight of the pair aligned
    base, tuned = _read(state, output, but=("mixed", layer))
    dim = values.shape[0] // kv
    mixed = (base.T @ tuned).reshape(kv, rep, dim, kv, rep, dim)
    return Likeness(keys, queries, values.reshape(kv, dim, kv, dim), mixed)


def _products(state: _State, role: str, layer: int, heads: int | None = None) -> Float[Tensor, "n n"]:
    """Inner products of the rows (or of the heads' blocks of rows) of a projection and its bias."""
    total: Tensor | float = 0.0
    for part in (role, f"{role}.bias"):
        weight = state.symmetries.weight(part, layer)
        if weight is None:
            continue
        rows, _ = state.symmetries.axes[weight.name]
        base, tuned = _read(state, weight, but=rows)
        count = heads or len(base)
        total = total + base.reshape(count, -1) @ tuned.reshape(count, -1).T
    assert isinstance(total, Tensor)  # symmetries_of has seen the projection
    return total


def _head_size(state: _State, role: str, layer: int, heads: int) -> int:
    weight = state.symmetries.weight(role, layer)
    assert weight is not None  # symmetries_of has seen the projection
    return weight.shape[0] // heads


def _read(state: _State, weight: AlignedTensor, but: Axis) -> tuple[Tensor, Tensor]:
    """Both sides in float64, the tuned one in the orders found so far except along `but`; a vector as a column."""
    rows, columns = state.symmetries.axes[weight.name]
    tuned = weight.tuned.read().double()
    orders = (None if axis == but else state.orders.get(axis) for axis in (rows, columns))
    base, ordered = weight.base.read().double(), _ordered(tuned, *orders)
    return (base, ordered) if base.dim() > 1 else (base[:, None], ordered[:, None])


def _ordered(weight: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    by_rows = weight if rows is None else weight[rows]
    return by_rows if columns is None else by_rows[:, columns]


def _spread(order: Int[Tensor, "n"], size: int) -> Int[Tensor, "n*size"]:
    """An order of blocks as an order of their rows."""
    return (order[:, None] * size + torch.arange(size)).flatten()


def _same(before: Orders, after: Orders) -> bool:
    return before.keys() == after.keys() and all(torch.equal(before[axis], after[axis]) for axis in after)


def _inner_product(state: _State) -> float:
    pairs = (_read(state, weight, but=FIXED) for weight in state.symmetries.weights)
    return sum(float((base * tuned).sum()) for base, tuned in pairs)
