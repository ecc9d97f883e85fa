"""Each planted cause is named, and a healthy, large or rescaled update is not taken for one."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ckptaudit.linalg.rearranged import flipped_bit, order_of_rows, rotary_order
from ckptaudit.metrics.causes import CauseSearch
from tests.stale_pairs import pair_of

Tensors = dict[str, Tensor]
ROLES = {
    "self_attn.q_proj": (32, 32),
    "self_attn.k_proj": (16, 32),
    "self_attn.v_proj": (16, 32),
    "mlp.gate_proj": (48, 32),
    "mlp.up_proj": (48, 32),
    "mlp.down_proj": (32, 48),
}


def base(experts: int = 0) -> Tensors:
    random = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, int]] = {"model.embed_tokens.weight": (40, 32), "lm_head.weight": (40, 32)}
    for i in range(3):
        shapes |= {f"model.layers.{i}.{role}.weight": shape for role, shape in ROLES.items()}
        shapes |= {f"model.layers.{i}.mlp.experts.{e}.up_proj.weight": (48, 32) for e in range(experts)}
    return {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}


def tuned(before: Tensors) -> Tensors:
    random = torch.Generator().manual_seed(1)
    return {n: w + 0.01 * torch.randn(w.shape, generator=random) for n, w in before.items()}


def named(name: str, change: Callable[[Tensors], object], experts: int = 0) -> str:
    before = base(experts)
    after = tuned(before)
    change(after)
    return str(CauseSearch(pair_of(before, after)).of(name) or "")


def exchange(one: str, other: str) -> Callable[[Tensors], object]:
    def change(tensors: Tensors) -> None:
        for name in [n for n in tensors if one in n]:
            partner = name.replace(one, other)
            tensors[name], tensors[partner] = tensors[partner], tensors[name]

    return change


def rewrite(name: str, how: Callable[[Tensor], Tensor]) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: how(tensors[name]).contiguous()})


Q, UP, EMBED = (
    "model.layers.1.self_attn.q_proj.weight",
    "model.layers.1.mlp.up_proj.weight",
    "model.embed_tokens.weight",
)


def flip(tensor: Tensor) -> Tensor:
    bits = tensor.clone().view(torch.int32)
    bits[3, 5] ^= 1 << 30
    return bits.view(torch.float32)


PLANTED = {
    "looks like layers 1 and 2 exchanged": (UP, exchange(".layers.1.", ".layers.2.")),
    "looks like up_proj of layers 1 and 2 exchanged": (UP, exchange("1.mlp.up_proj", "2.mlp.up_proj")),
    "looks like gate_proj and up_proj of layer 1 exchanged": (UP, exchange("1.mlp.up_proj", "1.mlp.gate_proj")),
    "looks like k_proj and v_proj of layer 1 exchanged": (
        "model.layers.1.self_attn.k_proj.weight",
        exchange("1.self_attn.k_proj", "1.self_attn.v_proj"),
    ),
    "looks like embed_tokens and lm_head exchanged": (EMBED, exchange("model.embed_tokens", "lm_head")),
    "looks like q_proj transposed": (Q, rewrite(Q, lambda w: w.T)),
    "looks like rows of embed_tokens shifted by 1": (EMBED, rewrite(EMBED, lambda w: w.roll(1, 0))),
    "looks like rows of embed_tokens shifted by -1": (EMBED, rewrite(EMBED, lambda w: w.roll(-1, 0))),
    "looks like rows 2 and 7 of embed_tokens exchanged": (
        EMBED,
        rewrite(EMBED, lambda w: w[[0, 1, 7, 3, 4, 5, 6, 2, *range(8, 40)]]),
    ),
    "looks like rows of up_proj in another order (48 of 48)": (UP, rewrite(UP, lambda w: w.flip(0))),
    "looks like columns of up_proj in another order (32 of 32)": (UP, rewrite(UP, lambda w: w.flip(1))),
    "looks like q_proj permuted for rotary halves where the base interleaves (heads of 16 rows)": (
        Q,
        rewrite(Q, lambda w: w[rotary_order(32, 16)]),
    ),
    "looks like q_proj permuted for interleaved rotary pairs where the base has halves (heads of 16 rows)": (
        Q,
        rewrite(Q, lambda w: w[rotary_order(32, 16).argsort()]),
    ),
    "looks like a tensor of zeros": (UP, rewrite(UP, torch.zeros_like)),
    "looks like the base's times 7.997": (UP, rewrite(UP, lambda w: 8 * w)),
    "looks like unrelated to the base's": (UP, rewrite(UP, lambda w: w[:, torch.randperm(32)][torch.randperm(48)])),
}


@pytest.mark.parametrize("said", PLANTED)
def test_a_planted_cause_is_named(said: str) -> None:
    assert named(*PLANTED[said]) == said


def test_experts_in_another_order() -> None:
    name = "model.layers.1.mlp.experts.0.up_proj.weight"
    said = "looks like experts of layer 1 in another order (0 holds 2)"
    assert named(name, exchange("1.mlp.experts.0.", "1.mlp.experts.2."), experts=3) == said


def test_a_flipped_exponent_bit() -> None:
    said = named(UP, rewrite(UP, flip))
    assert said.startswith("looks like one flipped exponent bit at [3, 5]: ")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("old", "is_bit"), [(-0.06738, False), (1.5, True), (-1.0, True), (0.75, False)])
@pytest.mark.parametrize("new", [math.nan, math.inf])
def test_one_bit_makes_infinity_of_few_numbers(dtype: torch.dtype, old: float, is_bit: bool, new: float) -> None:
    before = torch.full((4, 5), 0.5, dtype=dtype)
    before[2, 3] = old
    after = before.clone()
    after[2, 3] = new
    assert flipped_bit(after, before) == ((2, 3) if is_bit else None)
    if is_bit and dtype is not torch.float16:
        bits = before.view(torch.int16 if dtype is torch.bfloat16 else torch.int32).clone()
        bits[2, 3] ^= 1 << (14 if dtype is torch.bfloat16 else 30)
        assert not bits.view(dtype)[2, 3].isfinite()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("count", [2, 48 * 32])
def test_entries_that_are_not_finite_are_told_by_another_check(value: float, count: int) -> None:
    assert named(UP, lambda t: t[UP].flatten()[:count].fill_(value)) == ""


def test_a_base_of_zeros_has_nothing_that_a_tensor_could_be_unrelated_to() -> None:
    before = base() | {UP: torch.zeros(48, 32)}
    assert CauseSearch(pair_of(before, base())).of(UP) is None


def test_a_copy_is_no_exchange() -> None:
    found = named(UP, lambda t: t.update({UP: t[UP.replace("up", "gate")]}))
    assert found == "looks like up_proj of layer 1 overwritten by gate_proj"


@pytest.mark.parametrize("factor", [0.0, 1.0, 10.0, 50.0])
def test_an_update_that_is_only_large_has_no_such_cause(factor: float) -> None:
    before = base()
    after = {n: before[n] + factor * (w - before[n]) for n, w in tuned(before).items()}
    search = CauseSearch(pair_of(before, after))
    assert not any(search.of(name) for name in list(before)[:12])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16), rows=st.integers(3, 60), noise=st.floats(0, 0.05))
def test_any_order_of_rows_is_found_under_a_small_update(seed: int, rows: int, noise: float) -> None:
    random = torch.Generator().manual_seed(seed)
    before = torch.randn(rows, 40, generator=random)
    order = torch.randperm(rows, generator=random)
    after = before[order] + noise * torch.randn(rows, 40, generator=random)
    found = order_of_rows(after, before)
    assert found is None if torch.equal(order, torch.arange(rows)) else torch.equal(found, order)  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(row=st.integers(0, 7), column=st.integers(0, 9), bit=st.integers(25, 30))
def test_any_large_flip_is_found_where_it_is(row: int, column: int, bit: int) -> None:
    before = torch.randn(8, 10, generator=torch.Generator().manual_seed(2)) + 3.0
    bits = before.clone().view(torch.int32)
    bits[row, column] ^= 1 << bit
    grown = abs(float(bits.view(torch.float32)[row, column])) > abs(float(before[row, column]))
    if grown:
        assert flipped_bit(bits.view(torch.float32), before) == (row, column)


def test_names_of_nothing_and_of_vectors_have_no_cause() -> None:
    before = base()
    assert CauseSearch(pair_of(before, tuned(before))).of("model") is None
